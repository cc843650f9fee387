// Numbers as they are read, and elements whose text is only ever text.

const MINUS = "−";

/** Four significant digits; an undefined number is a dash. */
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value).replace("-", MINUS);
  const size = Math.abs(value);
  const text = size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  return text.replaceAll("-", MINUS);
}

function interval(low, high) {
  return low === undefined || high === undefined ? "" : `[${number(low)}, ${number(high)}]`;
}

function words(value) {
  return typeof value === "number" ? number(value) : String(value);
}

/** `1 edge`, `2 edges`. */
function count(n, thing) {
  return `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;
}

const SVG = "http://www.w3.org/2000/svg";

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An HTML element; children are elements or strings, and a string is text whatever it holds. */
function el(tag, attributes = {}, ...children) {
  return made(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return made(document.createElementNS(SVG, tag), attributes, children);
}

function at(id) {
  return document.getElementById(id);
}
