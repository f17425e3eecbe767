"use strict";
// Draws the plots. One cursor and one zoom for all of them: they share the steps.
(() => {
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const times = JSON.parse(document.getElementById("times").textContent);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const short = (value) => (value == null ? "–" : Math.abs(value) >= 0.01 || value === 0 ? value.toFixed(3) : value.toExponential(2));
  const label = (v) => (v === 0 ? "0" : Math.abs(v) < 0.001 ? v.toExponential() : String(+v.toPrecision(4)));
  const line = (label, name, width) => ({ label, stroke: color(name), width, points: { show: false }, spanGaps: true, value: (_, v) => short(v) });
  const dots = (label, name) => ({
    ...line(label, name, 1.5),
    dash: [4, 4],
    points: { show: true, size: 9, fill: color("card"), stroke: color(name), width: 2 },
  });

  const plots = {
    loss: () => ({
      data: [curves.step, curves.loss, curves.smooth, curves.validation],
      series: [line("training", "raw", 1), line("smoothed", "accent", 2.5), dots("validation", "second")],
      levels: Object.entries(curves.baselines),
      ticks: curves.skipped,
    }),
    rate: () => ({ data: [curves.step, curves.rate], series: [line("learning rate", "accent", 2)], levels: [], ticks: [] }),
    norm: () => ({ data: [curves.step, curves.norm], series: [line("gradient norm", "accent", 1.2)], levels: [], ticks: curves.skipped }),
  };

  // Stacked areas: each name's line lies on those below it, and the band down to the next is filled.
  const stacked = () => {
    const names = times.tops.map(([name]) => name);
    const shade = (name) => color(name) || color("beside");
    const own = (u, raw, series, index) => (raw == null ? "–" : (raw - (series > 1 ? u.data[series - 1][index] : 0)).toPrecision(3));
    return {
      data: [times.step, ...times.tops.map(([, top]) => top), times.slowest],
      series: [...names.map((name) => ({ ...line(name, "line", 0), stroke: shade(name), fill: shade(name), value: own })), line("slowest", "accent", 1.5)],
      bands: names.slice(1).map((name, index) => ({ series: [index + 2, index + 1], fill: shade(name) })),
      levels: [],
      ticks: times.findings.map(({ step }) => step),
    };
  };
  plots.times = stacked;

  // Baselines as labeled levels, skipped steps as ticks at the foot.
  const marks = (levels, ticks) => (u) => {
    const { ctx, bbox } = u;
    const scale = window.devicePixelRatio || 1;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = 1.5 * scale;
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.strokeStyle = ctx.fillStyle = color("baseline");
    for (const [name, level] of levels) {
      const y = u.valToPos(level, "y", true);
      ctx.setLineDash([6 * scale, 4 * scale]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(`${name} ${level.toFixed(2)}`, bbox.left + bbox.width - 6 * scale, y - 6 * scale);
    }
    ctx.setLineDash([]);
    ctx.strokeStyle = color("red");
    for (const step of ticks) {
      const x = u.valToPos(step, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + bbox.height);
      ctx.lineTo(x, bbox.top + bbox.height - 12 * scale);
      ctx.stroke();
    }
    ctx.restore();
  };

  // A loss that falls far is drawn on a logarithmic scale: what matters happens at its foot.
  const NICE = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const nice = (low, high) => {
    const decades = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) decades.push(...NICE.map((n) => n * 10 ** power));
    return decades.filter((value) => value >= low && value <= high);
  };
  const fallsFar = (columns, levels) => {
    const all = [...columns.flat(), ...levels.map(([, level]) => level)].filter((value) => value != null);
    return Math.min(...all) > 0 && Math.max(...all) / Math.min(...all) > 2.5;
  };

  // The scale holds the curve and the levels, with room for the levels' labels.
  const range = (levels, logarithmic) => (u, low, high) => {
    const all = [low, high, ...levels.map(([, level]) => level)].filter((value) => value != null);
    if (!all.length) return [0, 1];
    const [min, max] = [Math.min(...all), Math.max(...all)];
    const room = (max - min || Math.abs(max) || 1) * 0.07;
    if (logarithmic) return [min / 1.06, max * 1.06];
    return [min >= 0 ? Math.max(0, min - room) : min - room, max + room];
  };

  const axis = (size, values) => ({
    stroke: color("soft"),
    grid: { stroke: color("line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
    size,
    values,
  });

  const draw = (element) => {
    const { data, series, bands, levels, ticks } = plots[element.dataset.plot]();
    const logarithmic = element.dataset.plot === "loss" && fallsFar(data.slice(1), levels);
    const ticksAt = (u, _, low, high) => nice(low, high);
    const size = () => ({ width: element.clientWidth, height: +getComputedStyle(element).getPropertyValue("--height") });
    element.replaceChildren();
    const plot = new uPlot(
      {
        ...size(),
        series: [{ label: "step" }, ...series],
        ...(bands && { bands }),
        scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1, range: range(levels, logarithmic) } },
        axes: [axis(32), { ...axis(58, (u, splits) => splits.map(label)), ...(logarithmic && { splits: ticksAt, filter: (u, splits) => splits }) }],
        cursor: { sync: { key: "steps" }, points: { size: 7 } },
        hooks: { draw: [marks(levels, ticks)] },
        padding: [10, 24, 0, 0], // room for half of the last label,
      },
      data,
      element,
    );
    return () => plot.setSize(size());
  };

  const elements = [...document.querySelectorAll("[data-plot]")];
  let resizes = [];
  const drawAll = () => { resizes = elements.map(draw); };
  drawAll();
  window.addEventListener("resize", () => resizes.forEach((resize) => resize()));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
