// The headings of layers and lanes: they stay at the edge of the drawing while it is moved.

const PAD = { left: 72, right: 22, top: 46, bottom: 40 };
let moved = false;

const strips = data.columns.map((strip, i) => ({ ...strip, box: el("div", { class: i % 2 ? "strip odd" : "strip" }) }));
const heads = data.columns.map((strip) => ({ ...strip, box: el("span", { class: "heading" }, strip.title) }));
const rows = data.lanes.map((strip) => ({ ...strip, box: el("span", { class: "lane" }, strip.title) }));
at("axes").append(...[...strips, ...heads, ...rows].map(({ box }) => box));

let pulled = { across: 1, down: 1 };
let fitted = "";

/** Fill the window: zoom until one side is full, then pull columns or rows apart until the other is. */
function fit() {
  spread(1, 1);
  const own = data.largest + data.font; // of a component and its label, which are not pulled
  const high = extent.bottom - extent.top;
  at("stage").style.minHeight = `${Math.min(900, 0.8 * (high + own) + PAD.top + PAD.bottom)}px`;
  cy.resize();
  const [wide, tall] = [
    Math.max(cy.width() - PAD.left - PAD.right, 40),
    Math.max(cy.height() - PAD.top - PAD.bottom, 40),
  ];
  const zoom = Math.min(wide / extent.right, tall / (high + own), 1.5);
  const across = Math.min(wide / zoom / extent.right, 3);
  const down = high ? Math.min((tall / zoom - own) / high, 3) : 1;
  spread(across, down);
  if (across !== pulled.across || down !== pulled.down) {
    pulled = { across, down };
    rearrange();
  }
  const x = PAD.left + (wide - extent.right * zoom) / 2;
  const y = PAD.top + tall / 2 - ((extent.top + extent.bottom + data.font) / 2) * zoom;
  cy.viewport({ zoom, pan: { x, y } });
  moved = false;
  fitted = `${cy.width()} ${cy.height()}`;
  placeAxes();
}

/** Put the headings where their columns and lanes are now; one that would cover another is left out, the ends never. */
function placeAxes() {
  const [zoom, pan] = [cy.zoom(), cy.pan()];
  const x = (value) => value * pulled.across * zoom + pan.x;
  const y = (value) => value * pulled.down * zoom + pan.y;
  strips.forEach(({ box, start, end }) => {
    box.style.transform = `translateX(${x(start)}px)`;
    box.style.width = `${x(end) - x(start)}px`;
  });
  const taken = [];
  const order = [...heads.keys()].sort((a, b) => (heads[b].title[0] !== "L") - (heads[a].title[0] !== "L") || a - b);
  for (const i of order) {
    const { box, title, start, end } = heads[i];
    const [centre, half] = [(x(start) + x(end)) / 2, 3.9 * title.length + 2];
    box.hidden = taken.some(([from, to]) => centre - half < to && centre + half > from);
    box.style.transform = `translateX(${centre}px) translateX(-50%)`;
    if (!box.hidden) taken.push([centre - half, centre + half]);
  }
  rows.forEach(({ box, start, end }) => {
    box.style.transform = `translateY(${(y(start) + y(end)) / 2}px) translateY(-50%)`;
    box.hidden = y(end) - y(start) < 13;
  });
}

let waiting = false;
cy.on("viewport", placeAxes);
cy.on("zoom", () => {
  // names that stand out keep their size
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    cy.nodes(".large").updateStyle();
  });
});
cy.on("dragpan scrollzoom pinchzoom", () => {
  moved = true;
});
new ResizeObserver(() => {
  cy.resize();
  if (moved) placeAxes();
  else if (fitted !== `${cy.width()} ${cy.height()}`) fit();
}).observe(at("canvas"));

function zoomBy(factor) {
  moved = true;
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

/** Bring a component into the window where it is outside. */
function bring(i) {
  const { x, y } = drawnNodes[i].renderedPosition();
  if (x < PAD.left / 2 || y < PAD.top || x > cy.width() - 12 || y > cy.height() - 12) {
    moved = true;
    cy.center(drawnNodes[i]);
  }
}
