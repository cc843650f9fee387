// What is shown: threshold, filters and isolated component, and which edges and components follow from them.

const data = JSON.parse(at("data").textContent);
const { nodes, edges, levels } = data;

const view = {
  level: data.opening,
  kinds: new Set(edges.map((edge) => edge.kind)),
  sure: false,
  chosen: false,
  isolated: null,
  reach: "neighbours",
  query: "",
  size: data.size,
  active: null,
};

const into = nodes.map(() => []);
const outOf = nodes.map(() => []);
edges.forEach((edge, i) => {
  outOf[edge.source].push(i);
  into[edge.target].push(i);
});

/** Edges by their measurement: those into query heads that share keys or values are one. */
const copies = [];
edges.forEach((edge, i) => (copies[edge.measurement] ??= []).push(i));

/** The first of each measurement among these edges. */
function once(these) {
  const met = new Set();
  return these.filter((i) => !met.has(edges[i].measurement) && met.add(edges[i].measurement));
}

/** Measurements among the edges that are shown. */
function amount(shown) {
  return once(edges.map((_, i) => i).filter((i) => shown[i])).length;
}

/** What an edge runs into: a component, or what the heads of a group share. */
function receiver(edge) {
  return edge.shared ?? nodes[edge.target].id;
}

/** Whether an edge passes the threshold and the filters. */
function passes(edge) {
  const { threshold } = levels[view.level];
  return (
    (threshold === null || (edge.effect !== null && Math.abs(edge.effect) >= threshold)) &&
    view.kinds.has(edge.kind) &&
    (!view.sure || edge.sure === true) &&
    (!view.chosen || edge.has.in_circuit === true)
  );
}

function filtered() {
  return view.sure || view.chosen || edges.some((edge) => !view.kinds.has(edge.kind));
}

/** Edges met when following `next` from a component, over edges that pass. */
function follow(start, passing, next, end, met) {
  const seen = new Set([start]);
  for (const here of seen) {
    for (const i of next[here]) {
      if (!passing[i]) continue;
      met.add(i);
      seen.add(edges[i][end]);
    }
  }
}

/** {passing, shown}: per edge whether it passes, and whether it is drawn; {near}: components drawn in full. */
function look() {
  const passing = edges.map(passes);
  if (view.isolated === null) {
    const near = nodes.map((_, i) => {
      const mine = [...into[i], ...outOf[i]];
      return mine.length === 0 || mine.some((edge) => passing[edge]);
    });
    return { passing, shown: passing, near };
  }
  const met = new Set();
  if (view.reach === "neighbours") {
    [...into[view.isolated], ...outOf[view.isolated]].filter((i) => passing[i]).forEach((i) => met.add(i));
  }
  if (view.reach === "upstream" || view.reach === "both") follow(view.isolated, passing, into, "source", met);
  if (view.reach === "downstream" || view.reach === "both") follow(view.isolated, passing, outOf, "target", met);
  const near = nodes.map((_, i) => i === view.isolated);
  met.forEach((i) => {
    near[edges[i].source] = true;
    near[edges[i].target] = true;
  });
  return { passing, shown: edges.map((_, i) => met.has(i)), near };
}

/** Components whose id, class, kind, label or position holds the words sought; null where nothing is sought. */
function found() {
  const sought = view.query.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (!sought.length) return null;
  return nodes.map(({ id, group, kind, has }) => {
    const text = [id, group, kind, has.label, has.position]
      .filter((part) => part !== undefined)
      .join(" ")
      .toLowerCase();
    return sought.every((word) => text.includes(word));
  });
}

/** The number that a component is sized by; undefined where it has none. */
function sizeOf(node) {
  const value = view.size === null ? undefined : node.has[view.size];
  return typeof value === "number" ? value : undefined;
}

/** A measure of a node or an edge: {name, value, low, high, p, n}; null where it has none. */
function measured(has, measure) {
  if (typeof has[measure.name] !== "number") return null;
  const part = (name) => (name === null ? undefined : has[name]);
  return {
    name: measure.name,
    value: has[measure.name],
    low: part(measure.low),
    high: part(measure.high),
    p: part(measure.p),
    n: part(measure.n),
  };
}

/** Attributes that are no measure and no part of one. */
function rest(has, measures, without) {
  const known = new Set(measures.flatMap((m) => [m.name, m.low, m.high, m.p, m.n]));
  return Object.entries(has).filter(([name]) => !known.has(name) && !without.includes(name));
}
