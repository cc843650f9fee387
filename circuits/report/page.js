// Draws each figure when it comes near the screen, in the reader's colour scheme, and again when that changes.
(() => {
  "use strict";
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  let printing = false;

  function draw(plot) {
    const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    const theme = themes[dark.matches && !printing ? "dark" : "light"];
    figure.layout.template = theme.template;
    const meta = figure.layout.meta;
    if (meta && meta.scale && figure.layout.coloraxis) {
      figure.layout.coloraxis.colorscale = theme.scales[meta.scale];
    }
    drawn.add(plot);
    return Plotly.react(plot, figure.data, figure.layout, {
      displaylogo: false,
      showSendToCloud: false, // plotly.js 4 offers an upload by default
      plotlyServerURL: "",
      responsive: true,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: plot.id.replace(/^plot-/, "") },
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  if (typeof Plotly === "undefined") {
    plots.forEach((plot) => {
      plot.textContent = "plotly.min.js is missing: keep it beside index.html.";
    });
    return;
  }
  const near = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      draw(entry.target);
    });
  }, { rootMargin: "900px" });
  plots.forEach((plot) => {
    if (plot.getBoundingClientRect().top < window.innerHeight + 900) draw(plot);
    else near.observe(plot);
  });
  dark.addEventListener("change", () => drawn.forEach(draw));
  window.addEventListener("beforeprint", () => {
    printing = true;
    plots.forEach(draw);
    document.querySelectorAll("details").forEach((fold) => {
      fold.dataset.was = fold.open ? "open" : "";
      fold.open = fold.open || fold.classList.contains("print-open");
    });
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    plots.forEach(draw);
    document.querySelectorAll("details").forEach((fold) => { fold.open = fold.dataset.was === "open"; });
  });
})();
