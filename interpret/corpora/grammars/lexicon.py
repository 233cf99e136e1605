"""The subjects and phrases of the built-in grammar; `verbs` holds its verbs. Written for this project."""

from dataclasses import dataclass

from neurodial.interpret.corpora.grammars.verbs import THING_VERB_TABLE, parse_verb


@dataclass(frozen=True)
class Subject:
    """A subject with what agrees with it."""

    text: str
    person: int = 3
    plural: bool = False
    possessive: str = "his"
    reflexive: str = "himself"
    name: bool = False

    @property
    def pronoun(self) -> bool:
        """Whether `is`, `are` and `am` contract with it in writing."""
        return self.text in ("I", "You", "He", "She", "It", "We", "They")


def _phrases(table: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in table.split(";"))


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    """Phrases in two halves, separated by a slash."""
    halves = [phrase.partition("/") for phrase in _phrases(table)]
    return tuple((first.strip(), second.strip()) for first, _, second in halves)


def _subjects(phrases: str, plural: bool, possessive: str, reflexive: str) -> tuple[Subject, ...]:
    return tuple(Subject(text, 3, plural, possessive, reflexive) for text in _phrases(phrases))


_PLURAL_THINGS = ("The flowers", "The roses", "These towels", "The sheets")
THING_VERBS = tuple(
    (
        tuple(Subject(text, 3, text in _PLURAL_THINGS, "its", "itself") for text in _phrases(subjects)),
        parse_verb(forms, complements),
    )
    for subjects, forms, complements in (line.split("|") for line in THING_VERB_TABLE.strip().splitlines())
)

PRONOUNS = (
    Subject("I", 1, False, "my", "myself"),
    Subject("You", 2, True, "your", "yourself"),
    Subject("He"),
    Subject("She", 3, False, "her", "herself"),
    Subject("We", 1, True, "our", "ourselves"),
    Subject("They", 3, True, "their", "themselves"),
)
NAMES = (
    *(Subject(name, name=True) for name in ("Tom", "Peter", "Jack")),
    *(Subject(name, 3, False, "her", "herself", True) for name in ("Mary", "Anna", "Lucy")),
)
NOUNS = (
    *_subjects("My father; My brother; The old man; The teacher; Her husband", False, "his", "himself"),
    *_subjects("The boy; My uncle; The tall man; Our boss", False, "his", "himself"),
    *_subjects("My mother; My sister; The girl; His wife", False, "her", "herself"),
    *_subjects("The nurse; My aunt; That woman; The young lady", False, "her", "herself"),
    *_subjects(
        "The children; My parents; The students; Tom and Mary; My friends; The boys", True, "their", "themselves"
    ),
    *_subjects("Those men; The girls; His sons; The neighbours; Some people; The workers", True, "their", "themselves"),
)
ANYONE = _subjects("Everyone; Nobody; Everybody; Someone; No one", False, "their", "themselves")
IT = Subject("It", 3, False, "its", "itself")
THINGS = (
    *_subjects("The house; The water; My room; The book; The car; The answer", False, "its", "itself"),
    *_subjects("Her dress; The food; The door; The night; The street; This chair", False, "its", "itself"),
    *_subjects("The test; The kitchen; His story; The garden; The coffee", False, "its", "itself"),
    *_subjects("The windows; My shoes; The apples; The streets", True, "their", "themselves"),
    *_subjects("His hands; The prices; The rooms; Her eyes", True, "their", "themselves"),
)

OBJECTS = {"me": (1, False), "you": (2, True), "him": (3, False), "her": (3, False), "us": (1, True), "them": (3, True)}
FREQUENCY = _phrases(
    """
    always; never; often; usually; sometimes; really; rarely; hardly ever; still; also
    """
)
ADJUNCTS = _phrases(
    """
    every day; in the morning; on Sundays; at home; with his friends; every week; in the evening; at night; after
    dinner; again; in the afternoon; without a word; before breakfast; every summer; for a living
    """
)
QUALITIES = _phrases(
    """
    tired; happy; sick; hungry; very tall; angry; sad; busy; alone; ready; late; rich; poor; right; wrong; afraid;
    thirsty; very kind; lazy; blind; famous; sleepy; in a hurry; nervous; in love; in trouble; in danger; good at
    chess; afraid of dogs; proud of {poss} son; too young; tired of waiting; from Spain; very strong; interested in
    art; not alone; sure of it; married; as tall as {who}; older than {who}; kind to {obj}; worried about {obj};
    surprised; on holiday; awake; bored; jealous; thin; serious; free; lucky; honest; drunk; shy; so stupid; full;
    quiet
    """
)
THING_QUALITIES = _phrases(
    """
    cold; very big; small; clean; dirty; expensive; open; empty; new; old; beautiful; warm; black and white; too
    small; wet; dark; ready; important; on the table; not easy; very different; dangerous; cheap; hot; red; made of
    wood; full of people; near the river; broken; wrong
    """
)
IT_IS = _phrases(
    """
    cold; dark outside; too late; very hot here; easy to find; a secret; my turn; true; not my fault; late;
    important; a mistake; very dangerous; raining; snowing; a good idea; about ten o'clock; mine; a long story;
    possible; our only chance; hard to believe; impossible to sleep; a difficult question
    """
)
THAT_IS = _phrases(
    """
    my book; a lie; the problem; a good question; her room; not true; my favourite song; enough; the reason; very
    kind of you; our house; a great idea; the best part; his only suit; the wrong answer
    """
)
PEOPLE_ARE = _pairs(
    """
    a teacher / teachers; a doctor / doctors; my friend / my friends; a good student / good students; a farmer /
    farmers; a child / children; a stranger here / strangers here; an artist / artists; a member of the club /
    members of the club; a good cook / good cooks; a liar / liars; a soldier / soldiers; a bad driver / bad drivers;
    the winner / the winners; a genius / geniuses; the only one here / the only ones here; a policeman / policemen;
    a beginner / beginners
    """
)
PLACES = _phrases(
    """
    at home; in the garden; in bed; at school; in the kitchen; here; there; at work; in Paris; at the station; in
    hospital; in prison; on the train; outside; upstairs; in the next room; at church
    """
)
HAVINGS = _phrases(
    """
    a dog; two brothers; a big house; a headache; no money; blue eyes; a lot of work; a new car; a cold; three
    children; a question; long hair; an idea; a problem; enough time; many friends; a good memory; a fever;
    something to say; nothing to do; a meeting; dinner at eight; the key; a garden; a daughter; a lot of books; the
    same name; another plan; a strange dream; no choice; a beautiful voice; time to rest
    """
)
THERE = _phrases(
    """
    a cat; a man; a big tree; nobody; a problem; no milk; a hole; an old bridge; some water; a book; nothing; a
    letter for you; no time; a good restaurant; something strange
    """
)
THERE_MANY = _phrases(
    """
    many people; two chairs; a lot of trees; three men; no books; some flowers; birds; few cars
    """
)
THERE_PLACES = _phrases(
    """
    in the garden; in the house; on the table; in the street; near the river; at the door; here;
    """
)
INFINITIVES = _phrases(
    """
    go home; help {obj}; sleep; be a doctor; learn Spanish; see {obj}; buy a car; stay here; speak to {obj}; leave;
    work; know the truth; play outside; be alone; write a book; eat something; travel; live here; wait for {obj}; go
    to bed; talk about it; drink some water; pay the bill; see {who} again; be happy; study; cook; meet {obj}; get
    up early; take the bus; do it again; try; find {who}; tell {obj} the truth
    """
)

# question word | base form of the verb | what follows it
WH_QUESTIONS = tuple(
    tuple(part.strip() for part in line.split("|"))
    for line in """
where | live |
where | work |
where | go | after school
where | go | every night
where | buy | {poss} clothes
where | sleep |
where | play | football
where | keep | the money
where | study |
where | come | from
what | want |
what | want | to do
what | do | here
what | do |
what | think | about it
what | need |
what | eat | for breakfast
what | know | about {obj}
what | mean |
what | say | to {obj}
what | see |
what | like | to drink
what | study |
what | call | this
what | hear |
what | believe | in
why | hate | {obj}
why | need | the money
why | say | that
why | want | to leave
why | cry |
why | laugh |
why | think | so
why | like | this place
why | ask |
how | know | that
how | feel |
how | get | to work
how | know | my name
how | make | that cake
who | love |
who | work | for
who | live | with
who | talk | to
who | help |
when | get | up
when | leave | the house
when | eat | dinner
how often | go | there
how often | call | {obj}
how many languages | speak |
how much money | need |
what time | get | up
what time | go | to bed
""".strip().splitlines()
)
WH_BE = _pairs(
    """
    where /; who /; how old /; how tall /; what / doing; where / going; why / crying; why / late; what / eating; why
    / angry; who / talking to; what / thinking about; how /; why / here; what / looking for; why / so tired; why /
    laughing; where / hiding
    """
)
