"""The verbs of the built-in grammar, with their forms and complements.

Written for this project. The tables hold one entry a line; a complement's slots are `{poss}` (the subject's
possessive), `{refl}` (its reflexive), `{obj}` (an object pronoun other than the subject) and `{who}` (a name).
"""

from dataclasses import dataclass

# base[+][/past/participle] | complements, separated by ";" ("-" is none).  "+" doubles the last consonant,
# "~" before the base marks a stative verb (no progressive), "!" one whose base and past are written alike.
_VERBS = """
open | the door; the window; the box; a bottle; {poss} eyes; the shop
close | the door; the window; {poss} eyes; the shop; the gate
walk | to school; home; in the park; along the river; with {poss} dog
work | here; in a hospital; in a bank; for {who}; hard; too much; with my brother; on a farm; -
live | here; in Madrid; in a small house; with {poss} parents; near the station; alone; in the country; abroad
play | the piano; tennis; football; in the garden; chess with {who}; with the children; cards
cook | dinner; for {obj}; rice and vegetables; very well; for the whole family
clean | {poss} room; the kitchen; the windows; the house
wash | {poss} hands; the car; the dishes; {poss} hair
watch | television; the birds; a film; {obj}; the game
listen | to music; to the radio; to {obj}; to the teacher
look | at {obj}; out of the window; at the stars; for {poss} keys; for a job
~look | tired; happy; angry; very young; like {poss} mother; sad; ill; very surprised
~seem | happy; tired; worried; very nervous; to know the answer; to understand; honest; to be in a hurry
~like | {obj}; music; dogs; this song; apples; the idea; {poss} job; fish; cold weather
~love | {obj}; this city; {poss} children; {poss} mother; the sea; chocolate; {who}
~hate | {obj}; the winter; onions; {poss} boss; this place; {who}
~want | a new bike; some water; more money; {obj} to help; a dog; to go home; an answer; the truth
~need | help; money; a doctor; more time; a new coat; {obj}; to sleep
~believe | {obj}; in {refl}; the story; in ghosts; that man
~trust | {obj}; {who}; {poss} friends; nobody
~prefer+ | tea; the blue one; to stay at home; coffee without sugar
~agree | with {obj}; with {who}; -
~know/knew/known | {obj}; the answer; my sister; the truth; a lot about birds; {who}; how to swim; nothing
~understand/understood/understood | {obj}; the question; the problem; everything; a little German; nothing
~remember | {obj}; everything; the name of the street; that day; {who}
~forget+/forgot/forgotten | everything; {poss} keys; names; the password
~belong | to {obj}; to a club; here
~deserve | it; a better job; more respect
~own | a boat; two houses; a restaurant
~mean/meant/meant | it; well; something else
~hear/heard/heard | {obj}; a noise; the bell; strange voices; music
~see/saw/seen | {obj}; a light; the mountains; the problem; {who} in the garden; nothing
~feel/felt/felt | tired; better; lonely; sorry for {obj}; very weak; guilty; hungry; the cold
~smell | the coffee; something strange; smoke
~owe | {obj} money; {who} a lot
~admire | {obj}; {poss} teacher; that painter
~respect | {obj}; {poss} parents; the law
~enjoy | the party; {poss} work; good food; the silence
~doubt | it; {poss} own words
~fear | nothing; the dark; the worst
~miss | {obj}; {poss} family; {poss} old friends; {who}
help | {obj}; {poss} neighbours; {who} with the homework; {poss} mother in the kitchen; the poor
ask | {obj} for help; a question; for {who}; for more time; the same thing; too many questions
answer | the question; the phone; all the letters; in French
call | {obj}; the police; {poss} mother; a taxi; {who}
talk | to {obj}; about the weather; about {poss} work; with {who}; too much; a lot; to {refl}
wait | for {obj}; for the bus; in the car; at the station; outside
visit | {obj}; {poss} grandmother; the museum; {who}; {poss} uncle
study | French; at home; hard; medicine; in the library; history
learn | English; to drive; new words; quickly; to play the guitar
try | to help; to sleep; to open the door; again; everything; to understand {obj}; to forget
use | this computer; a knife; {poss} phone; the stairs
need | a hand
carry | a heavy bag; the boxes; {poss} books; the baby
paint | the wall; pictures; the kitchen; landscapes
travel | by train; a lot; with {who}; to Italy; alone; around the world
arrive | late; at the station; home; on time; with {who}
return | home; to the village; the books; from work
stay | at home; in bed; with {obj}; in a hotel; here; in touch with {who}
laugh | at {obj}; a lot; -
smile | at {obj}; -
cry | a lot; in {poss} room; -
dance | well; with {obj}; all night; with {who}
smoke | a lot; in the garden; too much
jump | into the water; over the wall; for joy
climb | the tree; the hill; the stairs
kiss | {obj}; {poss} son; {who}
hug+ | {obj}; {poss} daughter
invite | {obj}; {poss} friends; {who} to dinner
thank | {obj}; {who}; the doctor
save | money; time; the children
spend/spent/spent | a lot of money; the afternoon here; too much time at work; the summer in Spain
plan+ | a trip; everything; the party
stop+ | the car; at the corner; here
shop+ | in the centre; at the market
drop+ | the ball; everything; the subject
move | the table; to the city; slowly
change | {poss} mind; the plan; {poss} clothes; the subject
follow | {obj}; the rules; the road; {who}
finish | {poss} work; early; the soup
start | early; again; a new job; the engine
repair | old clocks; the car; shoes
promise | {obj} the moon; to come; nothing
refuse | to answer; to pay; the offer
decide | everything; to wait; alone
hope | for the best; to see {obj} again; to win
offer | {obj} a job; {who} some tea; help
plant | trees; flowers in the garden; tomatoes
push | the door; the button; {obj}
pull | the rope; {poss} hair
touch | the wall; nothing
count | the money; to ten; the days
collect | stamps; old coins; shells
fix | the roof; computers; everything
bake | bread; a cake for {who}
share | a room with {who}; everything; {poss} food
explain | the rules to {obj}; everything; the problem
notice | the mistake; everything; nothing
worry | about {obj}; about money; too much
complain | about the noise; about the food; a lot
suffer | a lot; from headaches
earn | a lot of money; very little; {poss} living
pray | for {obj}; in the church; every day
happen | to be there; to know {obj}
eat/ate/eaten | an apple; breakfast; fish; in the kitchen; too much; meat; with {obj}; bread and cheese; alone
drink/drank/drunk | coffee; a glass of milk; too much; tea; wine with {poss} dinner; water
go/went/gone | to school; home; to bed early; to work by bus; to the market; to church; with {obj}; fishing
come/came/come | home late; from Mexico; with {who}; here by train; alone; to my office; to see {obj}
run+/ran/run | very fast; in the park; to the station; a small shop; away
swim+/swam/swum | in the lake; very well; like a fish
drive/drove/driven | a red car; to work; too fast; a bus; {obj} home
write/wrote/written | letters; a book; to {obj}; in {poss} diary; with {poss} left hand; poems
speak/spoke/spoken | Spanish; to {obj}; very slowly; with {who}; three languages; English well; too fast
tell/told/told | {obj} the truth; {obj} everything; {who} a secret; jokes; lies; {obj} a story
say/said/said | nothing; the same thing; yes; {poss} name; something strange; goodbye
give/gave/given | {obj} money; {who} a present; {obj} a book; good advice; {obj} some bread
take/took/taken | the bus; a photo; a bath; the train; {obj} home; {poss} medicine; {poss} time
make/made/made | a cake; {obj} happy; coffee; mistakes; a lot of noise; {poss} bed; friends easily; {obj} laugh
do/did/done | {poss} homework; the dishes; nothing; {poss} best; a good job; something; it alone; the same
get+/got/got | up early; angry; home late; a letter; tired; {poss} money; wet
buy/bought/bought | bread; a newspaper; flowers for {obj}; new shoes; fruit at the market; {poss} clothes here
sell/sold/sold | flowers; {poss} car; old books; fish at the market; shoes
bring/brought/brought | {obj} a coffee; {poss} lunch; good news; {poss} dog; {who} flowers
~think/thought/thought | of {obj}; so; about the future; too much; in Spanish
teach/taught/taught | history; children; {obj} French; at the university; {who} to drive
catch/caught/caught | a fish; the early train; a cold; {obj}
find/found/found | {poss} keys; the answer; {obj}; time for everything; the film boring
lose/lost/lost | {poss} keys; the game; everything; {poss} way; {poss} temper
leave/left/left | the house early; {poss} bag here; at six; {poss} family; work late; {obj} alone
keep/kept/kept | a dog; {poss} money here; the secret; {poss} promise; quiet
meet/met/met | {obj} at the station; {poss} friends here; {who}; interesting people
sleep/slept/slept | well; on the sofa; in this room; like a baby; very little; -
sit+/sat/sat | by the fire; on a bench; next to {obj}; at the table; near the window
stand/stood/stood | at the door; in the corner; behind {obj}; in the rain
wear/wore/worn | a hat; glasses; a black dress; {poss} old coat; a uniform
win+/won/won | the game; a prize; a lot of money
sing/sang/sung | in the shower; a song; very well; for {obj}; in a choir
ride/rode/ridden | a horse; {poss} bike to school
pay/paid/paid | the rent; for everything; the bill; {obj} well; in cash
build/built/built | houses; a wall; a boat
send/sent/sent | {obj} a letter; flowers; {poss} son to school; {who} money
begin+/began/begun | to laugh; {poss} work; to cry; again
break/broke/broken | everything; a glass; {poss} promise; the rules
choose/chose/chosen | the red one; {poss} words with care; a book
fall/fell/fallen | asleep; in love easily; ill; off the chair
grow/grew/grown | vegetables; flowers; very fast
steal/stole/stolen | cars; money from {obj}
throw/threw/thrown | stones; the ball to {obj}; everything away
draw/drew/drawn | a horse; maps; pictures of animals
fly/flew/flown | to London; a small plane; home
feed/fed/fed | the cat; the birds; {poss} children
fight/fought/fought | with {obj}; for freedom; a lot
hide/hid/hidden | behind the door; {poss} money; the truth; from {obj}
hold/held/held | {poss} hand; the baby; the rope
wake/woke/woken | up early; {obj} at seven
~become/became/become | angry; a doctor; famous; rich; nervous
lend/lent/lent | {obj} money; {who} {poss} car
shake/shook/shaken | {poss} head; hands with {obj}
lie/lay/lain | on the sofa; in bed; on the floor
!read/read/read | the newspaper; a book; {obj} a story; in bed; novels
!put+/put/put | sugar in {poss} coffee; {poss} coat on the chair; {obj} to bed
!cut+/cut/cut | the bread; {poss} hair; the grass
!let+/let/let | {obj} in; the dog out
"""

# Subjects that are things, with what they do.
THING_VERB_TABLE = """
The train; The bus; The plane; My flight | leave/left/left | at six; on time; late; from here; without {obj}
The train; The bus; The letter; The doctor | arrive | late; on time; at noon; too late
The shop; The bank; The museum; The library | open | at nine; early; on Sundays
The film; The class; The meeting; The show; School | begin+/began/begun | at eight; late; on time
The film; The class; The meeting; The game | end | at ten; badly; early; well
The soup; The milk; This wine; The meat; The cake | ~taste | good; strange; like fish; awful; sweet
The flowers; The roses; These towels; The sheets | ~smell | good; sweet; strange
The house; This jacket; The ticket; The room; The watch | ~cost/cost/cost | nothing
The house; This book; The car; The key; That land | ~belong | to {obj}; to my uncle; to {who}
The sun; The moon; The light | shine/shone/shone | brightly; in the window; -
The dog; His dog; A big dog | bark | at {obj}; all night; a lot; at strangers
The cat; The baby; The old man; My grandfather | sleep/slept/slept | on the sofa; a lot; in the kitchen; all day
The river; This river | flow | into the sea; through the town
This road; The road; The path | lead/led/led | to the village; nowhere; to the sea
The plan; The machine; The phone; The key; The radio | work | well; perfectly; -
The noise; The news; His behaviour; The question | surprise | {obj}; everyone
The story; The book; The film; This song | ~seem | interesting; true; too long; boring; familiar
It | rain | a lot; here; hard; all day; in the north
It | snow | in the mountains; a lot; all night
It | ~depend | on {obj}; on the weather; on the price
It | ~matter | a lot; to {obj}
It | ~seem | strange; easy; impossible; like a good idea; too good to be true
It | ~look | good; dangerous; like rain; expensive
It | ~sound | good; strange; easy
It | happen | a lot; in the night; to everyone; very fast
That | ~explain | everything; a lot; the noise
That; This | ~mean/meant/meant | nothing; trouble; a lot to {obj}
"""


@dataclass(frozen=True)
class Verb:
    """A verb with its forms and the complements that it goes with."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str
    complements: tuple[str, ...]
    stative: bool = False
    ambiguous: bool = False


def inflect(base: str, *, doubled: bool) -> tuple[str, str, str]:
    """Third person singular, regular past and gerund of `base`."""
    if base.endswith(("s", "sh", "ch", "x", "z", "o")):
        third = base + "es"
    elif base.endswith("y") and base[-2] not in "aeiou":
        third = base[:-1] + "ies"
    else:
        third = base + "s"
    stem = base + base[-1] if doubled else base
    if base.endswith("e"):
        past = base + "d"
    elif third.endswith("ies"):
        past = base[:-1] + "ied"
    else:
        past = stem + "ed"
    if base.endswith("ie"):
        gerund = base[:-2] + "ying"
    elif base.endswith("e") and not base.endswith("ee"):
        gerund = base[:-1] + "ing"
    else:
        gerund = stem + "ing"
    return third, past, gerund


def parse_verb(forms: str, complements: str) -> Verb:
    """One row of the verb table."""
    parts = forms.strip().lstrip("~!").split("/")
    base = parts[0].rstrip("+")
    third, past, gerund = inflect(base, doubled=parts[0].endswith("+"))
    if len(parts) == 3:
        past, participle = parts[1], parts[2]
    else:
        participle = past
    given = tuple("" if text.strip() == "-" else text.strip() for text in complements.split(";"))
    return Verb(base, third, past, participle, gerund, given, "~" in forms, "!" in forms or base == past)


VERBS = tuple(parse_verb(*line.split("|")) for line in _VERBS.strip().splitlines())
