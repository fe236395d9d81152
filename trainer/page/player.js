"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const texts = JSON.parse($("texts").textContent);
  const curve = JSON.parse(texts["curve.json"]);
  const video = $("video"); // null where no file could be made for browsers: the cursor moves all the same
  const plot = $("plot");
  const rows = [...document.querySelectorAll("[data-emotion]")];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const LEFT = 40, RIGHT = 12, TOP = 8, BOTTOM = 24; // margins of the chart, in pixels
  const shown = curve.labels.map(() => true);
  let scores = curve.scores;
  let place = 0; // seconds, where there is no video
  let total = curve.duration_s;
  let width = 0, height = 0;
  let marks = null; // what moves in the chart: a line, and a dot an emotion

  // --- numbers ---

  const clock = (time) => `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}`;
  const percent = (share) => `${Math.round(100 * share)}%`;
  const x = (time) => LEFT + (time / total) * (width - LEFT - RIGHT);
  const y = (share) => height - BOTTOM - share * (height - TOP - BOTTOM);
  const now = () => (video ? video.currentTime : place);

  function at(time) { // scores between the middles of windows, on a line; beyond the first and last, theirs
    const times = curve.times_s;
    let low = 0, high = times.length - 1;
    if (time <= times[low]) return scores[low];
    if (time >= times[high]) return scores[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time) low = middle; else high = middle;
    }
    const part = (time - times[low]) / (times[high] - times[low]);
    return scores[low].map((score, i) => score + part * (scores[high][i] - score));
  }

  function strongest(row) {
    let best = -1;
    row.forEach((score, i) => { if (shown[i] && (best < 0 || score > row[best])) best = i; });
    return best;
  }

  // --- chart ---

  function element(name, attributes, parent) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  function draw() {
    width = plot.clientWidth;
    height = plot.clientHeight;
    plot.replaceChildren();
    const svg = element("svg", { "aria-hidden": "true" }, plot);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }, svg);
      element("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, svg).textContent = percent(share);
    }
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    const step = steps.find((one) => x(one) - x(0) >= 64) || 14400;
    for (let time = 0; time <= total; time += step) {
      element("line", { class: "axis", x1: x(time), x2: x(time), y1: y(0), y2: y(0) + 4 }, svg);
      const edge = x(time) > width - 28; // a label in the middle of which the chart would end
      const where = edge ? { x: width - 1, "text-anchor": "end" } : { x: x(time), "text-anchor": "middle" };
      element("text", { ...where, y: height - 6 }, svg).textContent = clock(time);
    }
    const times = curve.times_s;
    const first = x(times[0]).toFixed(1), last = x(times[times.length - 1]).toFixed(1);
    curve.labels.forEach((label, i) => {
      if (!shown[i]) return;
      const points = scores.map((row, k) => `${x(times[k]).toFixed(1)} ${y(row[i]).toFixed(1)}`);
      const [from, to] = [y(scores[0][i]), y(scores[scores.length - 1][i])];
      const css = `line c${i % 8}`;
      element("path", { class: `${css} held`, "data-line": i, d: `M${x(0)} ${from}H${first}M${last} ${to}H${x(total)}` }, svg);
      element("path", { class: css, "data-line": i, d: `M${points.join("L")}` }, svg);
    });
    const moving = element("g", { class: "moving" }, svg);
    element("line", { class: "cursor", x1: 0, x2: 0, y1: TOP, y2: y(0) }, moving);
    const dots = curve.labels.map((label, i) => shown[i] && element("circle", { class: `c${i % 8}`, r: 4.5 }, moving));
    marks = { moving, dots };
    tell();
    show();
  }

  function tell() { // the chart in words
    const peaks = curve.labels.map((label, i) => {
      let best = 0;
      scores.forEach((row, k) => { if (row[i] > scores[best][i]) best = k; });
      return `${label} ${percent(scores[best][i])} at ${clock(curve.times_s[best])}`;
    });
    $("told").textContent = `As a whole ${curve.verdict.label}. Each is highest: ${peaks.join(", ")}.`;
  }

  // --- the present moment ---

  function show() {
    const time = Math.min(Math.max(now(), 0), total);
    const row = at(time);
    const best = strongest(row);
    marks.moving.setAttribute("transform", `translate(${x(time).toFixed(2)} 0)`);
    marks.dots.forEach((dot, i) => dot && dot.setAttribute("cy", y(row[i]).toFixed(1)));
    rows.forEach((one, i) => {
      one.querySelector(".fill").style.transform = `scaleX(${row[i].toFixed(4)})`;
      write(one.querySelector(".percent"), shown[i] ? percent(row[i]) : "–");
      one.classList.toggle("leader", i === best);
    });
    const words = best < 0 ? "–" : `${curve.labels[best]} ${percent(row[best])}`;
    write($("clock"), clock(time));
    write($("strongest"), words);
    if (plot.getAttribute("aria-valuenow") !== String(Math.floor(time))) {
      plot.setAttribute("aria-valuenow", Math.floor(time));
      plot.setAttribute("aria-valuetext", `${clock(time)} of ${clock(total)}, ${words}`);
    }
  }

  function write(node, text) { if (node.textContent !== text) node.textContent = text; }

  function follow() { // at each frame, or as often as the browser tells the time to who wants less motion
    show();
    if (!video.paused && !video.ended && !still.matches) requestAnimationFrame(follow);
  }

  function seek(time) {
    place = Math.min(Math.max(time, 0), total);
    if (video) video.currentTime = place;
    show();
  }

  // --- hands ---

  const pointed = (event) => seek(((event.clientX - plot.getBoundingClientRect().left - LEFT) / (width - LEFT - RIGHT)) * total);
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    plot.setPointerCapture(event.pointerId);
    pointed(event);
  });
  plot.addEventListener("pointermove", (event) => { if (plot.hasPointerCapture(event.pointerId)) pointed(event); });

  rows.forEach((row, i) => {
    const button = row.querySelector("button");
    button.addEventListener("click", () => {
      shown[i] = !shown[i];
      button.setAttribute("aria-pressed", shown[i]);
      row.classList.toggle("off", !shown[i]);
      draw();
    });
    const point = (on) => () => {
      plot.querySelectorAll("[data-line]").forEach((line) => line.classList.toggle("faint", on && shown[i] && line.dataset.line !== String(i)));
    };
    for (const name of ["pointerenter", "focusin"]) row.addEventListener(name, point(true));
    for (const name of ["pointerleave", "focusout"]) row.addEventListener(name, point(false));
  });

  const choices = [...document.querySelectorAll("[data-of]")];
  choices.forEach((button) => button.addEventListener("click", () => {
    scores = (curve.modalities[button.dataset.of] || curve).scores;
    choices.forEach((one) => one.setAttribute("aria-pressed", one === button));
    draw();
  }));

  const toggle = () => { if (video) { if (video.paused) video.play().catch(() => {}); else video.pause(); } };
  const mute = () => { if (video) video.muted = !video.muted; };
  const by = (step) => () => seek(now() + step);
  const keys = {
    " ": toggle, k: toggle, m: mute, ArrowLeft: by(-5), ArrowRight: by(5), j: by(-10), l: by(10),
    Home: () => seek(0), End: () => seek(total),
  };
  for (let tenth = 0; tenth < 10; tenth++) keys[tenth] = () => seek((tenth / 10) * total);
  // Before the video's own keys, which would do the same once more.
  document.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!Object.hasOwn(keys, key) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === " " && event.target.closest("button, a")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat || (keys[key] !== toggle && keys[key] !== mute)) keys[key]();
  }, true);

  // --- the video and the files ---

  function bytes(base64) {
    const parts = [];
    for (let i = 0; i < base64.length; i += 1 << 20) { // whole groups of four
      const letters = atob(base64.slice(i, i + (1 << 20)));
      const part = new Uint8Array(letters.length);
      for (let k = 0; k < letters.length; k++) part[k] = letters.charCodeAt(k);
      parts.push(part);
    }
    return parts;
  }

  if (video) {
    for (const name of ["timeupdate", "seeking", "seeked", "pause", "ended"]) video.addEventListener(name, show);
    video.addEventListener("play", follow);
    video.addEventListener("durationchange", () => {
      if (Number.isFinite(video.duration)) total = Math.max(curve.duration_s, video.duration);
      plot.setAttribute("aria-valuemax", Math.floor(total));
      draw();
    });
    video.addEventListener("error", () => { $("unplayable").hidden = false; });
  }
  new ResizeObserver(draw).observe(plot);
  draw();
  document.querySelectorAll("[data-file]").forEach((link) => {
    link.href = URL.createObjectURL(new Blob([texts[link.dataset.file]], { type: "text/plain;charset=utf-8" }));
  });
  const media = $("media");
  if (media) {
    video.src = URL.createObjectURL(new Blob(bytes(media.textContent), { type: media.dataset.mime }));
    media.remove(); // the page keeps one copy
  } else if (video && video.error) {
    $("unplayable").hidden = false; // it failed before this script ran
  }
})();
