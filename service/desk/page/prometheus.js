// Prometheus' text format, as far as /metrics uses it.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** The samples [{name, labels, value}] of a page. */
export function samples(page) {
  const found = [];
  for (const line of page.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

/** The sum of a metric over its series that have the given labels. */
export const total = (all, name, labels = {}) => all
  .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
  .reduce((sum, one) => sum + one.value, 0);

/** The largest value of a metric among such series. */
export const most = (all, name, labels = {}) => Math.max(0, ...all
  .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
  .map((one) => one.value));
