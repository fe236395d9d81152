"use strict";
// The map of an embedded set. Everything that others named is put into the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { points, names, emotions, sheet } = data;
  const count = points.x.length;
  const byId = (id) => document.getElementById(id);
  const canvas = byId("map");
  const pen = canvas.getContext("2d");
  const image = byId("sheet");
  const COLOURS = 8, DOT_PX = 4.5, NEAR_PX = 16, FINGER_PX = 26, MOST_PICTURES = 120, MOST_FOUND = 8, MARGIN_PX = 34;
  const NO_LABEL = -1;
  const modes = [];
  if (data.labelled) modes.push({ words: "Label", of: points.label });
  if (emotions.length) modes.push({ words: "Likeliest emotion", of: points.likeliest });
  let mode = modes[0] ?? { words: "", of: Array(count).fill(NO_LABEL) };
  const hidden = new Set();
  let chosen = null, pointed = null, pictures = Boolean(sheet), zoom = 1, shift = { x: 0, y: 0 };
  let width = 0, height = 0, colours = {}, waiting = false;

  const element = (tag, words, css) => {
    const made = document.createElement(tag);
    if (words !== undefined) made.textContent = words;
    if (css) made.className = css;
    return made;
  };
  const colourOf = (number) => (number === NO_LABEL ? "quiet" : `c${number % COLOURS}`);
  const called = (i) => points.title[i] || points.key[i];
  const shown = (i) => !hidden.has(mode.of[i]);

  // --- where points are on the canvas
  const span = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    return { middle: (low + high) / 2, length: high - low || 1 };
  };
  const across = span(points.x), up = span(points.y);
  const unit = () => zoom * Math.min((width - 2 * MARGIN_PX) / across.length, (height - 2 * MARGIN_PX) / up.length);
  const at = (i) => ({
    x: (points.x[i] - across.middle) * unit() + width / 2 + shift.x,
    y: (up.middle - points.y[i]) * unit() + height / 2 + shift.y,
  });
  const inside = (place) => place.x > -40 && place.y > -40 && place.x < width + 40 && place.y < height + 40;

  const zoomBy = (factor, x = width / 2, y = height / 2) => {
    const next = Math.min(60, Math.max(0.5, zoom * factor));
    const ratio = next / zoom;
    shift = { x: (shift.x + width / 2 - x) * ratio + x - width / 2, y: (shift.y + height / 2 - y) * ratio + y - height / 2 };
    zoom = next;
    draw();
  };

  const nearestTo = (x, y, reach) => {
    let best = null, least = reach * reach;
    for (let i = 0; i < count; i++) {
      if (!shown(i)) continue;
      const place = at(i), squared = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (squared < least) { best = i; least = squared; }
    }
    return best;
  };

  // --- drawing
  const cut = (target, i, x, y, w, h) => target.drawImage(
    image, (i % sheet.columns) * sheet.width, Math.floor(i / sheet.columns) * sheet.height, sheet.width, sheet.height, x, y, w, h);
  const pictured = (i) => Boolean(sheet) && i < sheet.count && image.complete && image.naturalWidth > 0;

  const paint = () => {
    waiting = false;
    const ratio = window.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const lit = pointed ?? chosen;
    const visible = [];
    for (let i = 0; i < count; i++) if (shown(i)) { const place = at(i); if (inside(place)) visible.push([i, place]); }
    const many = visible.filter(([i]) => pictured(i)).length > MOST_PICTURES;
    const wide = width < 520 ? 40 : 64, high = (wide * 9) / 16;
    if (lit !== null) {
      const from = at(lit);
      pen.strokeStyle = colours.quiet;
      pen.lineWidth = 1.2;
      for (const other of points.near[lit]) {
        if (!shown(other)) continue;
        const to = at(other);
        pen.beginPath(); pen.moveTo(from.x, from.y); pen.lineTo(to.x, to.y); pen.stroke();
      }
    }
    const one = (i, place, scale) => {
      const colour = colours[colourOf(mode.of[i])];
      if (pictures && pictured(i) && (!many || i === lit)) {
        const w = wide * scale, h = high * scale;
        cut(pen, i, place.x - w / 2, place.y - h / 2, w, h);
        pen.strokeStyle = colour;
        pen.lineWidth = i === lit ? 4 : 2.5;
        pen.strokeRect(place.x - w / 2, place.y - h / 2, w, h);
        return;
      }
      pen.beginPath(); pen.arc(place.x, place.y, DOT_PX * scale, 0, 2 * Math.PI);
      pen.fillStyle = colour; pen.fill();
      pen.strokeStyle = i === lit ? colours.text : colours.panel; pen.lineWidth = i === lit ? 2.5 : 0.8; pen.stroke();
    };
    for (const [i, place] of visible) if (i !== lit) one(i, place, 1);
    if (lit !== null && shown(lit)) one(lit, at(lit), 1.7);
  };
  const draw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };

  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    colours = {};
    for (const name of ["quiet", "text", "panel", ...Array.from({ length: COLOURS }, (_, i) => `c${i}`)])
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    draw();
  };
  const resize = () => {
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth; height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    draw();
  };

  // --- the clip beside the map
  const small = (i) => {
    const made = element("canvas");
    made.width = sheet.width; made.height = sheet.height;
    cut(made.getContext("2d"), i, 0, 0, sheet.width, sheet.height);
    return made;
  };
  const show = (i) => {
    byId("hint").hidden = i !== null;
    byId("clip").hidden = i === null;
    if (i === null) return;
    const picture = byId("picture");
    picture.hidden = !pictured(i);
    if (pictured(i)) {
      picture.width = sheet.width; picture.height = sheet.height;
      cut(picture.getContext("2d"), i, 0, 0, sheet.width, sheet.height);
    }
    byId("title").textContent = called(i);
    const facts = [["Key", points.key[i]], ["Source", points.source[i]]];
    if (points.start[i] !== null) facts.push(["From", `${Math.round(points.start[i])} s`]);
    if (points.label[i] !== NO_LABEL) facts.unshift(["Label", names[points.label[i]]]);
    byId("facts").replaceChildren(...facts.flatMap(([name, value]) => {
      const told = element("dd");
      const safe = name === "Source" && /^https?:\/\//.test(value);
      const words = element(safe ? "a" : "bdi", value);
      if (safe) { words.href = value; words.rel = "noopener noreferrer"; words.target = "_blank"; }
      told.append(words);
      return [element("dt", name), told];
    }));
    const said = emotions.map((number, k) => ({ number, share: points.said[i][k] })).sort((a, b) => b.share - a.share);
    byId("said").replaceChildren(...said.map(({ number, share }) => {
      const row = element("li"), track = element("span", undefined, "track"), bar = element("span", undefined, colourOf(number));
      bar.style.width = `${100 * share}%`;
      track.append(bar);
      row.append(element("bdi", names[number]), element("span", `${Math.round(100 * share)}%`, "share"), track);
      return row;
    }));
    byId("near").replaceChildren(...points.near[i].map((other, k) => {
      const row = element("li"), button = element("button"), words = element("span");
      const label = points.label[other] === NO_LABEL ? "" : names[points.label[other]];
      const same = points.group[other] === points.group[i] ? "same source" : "";
      button.type = "button";
      words.append(element("bdi", called(other)));
      if (label || same) words.append(element("small", [label, same].filter(Boolean).join(", ")));
      button.append(pictured(other) ? small(other) : element("span", undefined, `dot ${colourOf(mode.of[other])}`), words,
        element("span", points.alike[i][k].toFixed(2), "share"));
      button.addEventListener("click", () => { choose(other); canvas.focus(); });
      row.append(button);
      return row;
    }));
  };
  const choose = (i) => {
    chosen = i; pointed = null;
    if (i !== null) {
      const place = at(i);
      if (place.x < 0 || place.y < 0 || place.x > width || place.y > height)
        shift = { x: shift.x + width / 2 - place.x, y: shift.y + height / 2 - place.y };
      byId("status").textContent = [called(i), names[points.label[i]], names[points.likeliest[i]]].filter(Boolean).join(", ");
    }
    show(i);
    draw();
  };

  // --- tools
  const legend = () => {
    const counts = new Map();
    for (const number of mode.of) counts.set(number, (counts.get(number) ?? 0) + 1);
    const present = modes.length ? [...counts.keys()].sort((a, b) => a - b) : [];
    byId("legend").replaceChildren(...present.map((number) => {
      const row = element("li"), button = element("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(number)));
      button.append(element("span", undefined, `dot ${colourOf(number)}`), element("bdi", number === NO_LABEL ? "no label" : names[number]), ` ${counts.get(number)}`);
      button.addEventListener("click", () => {
        if (!hidden.delete(number)) hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        draw();
      });
      row.append(button);
      return row;
    }));
  };
  const choices = modes.map((one) => {
    const button = element("button", one.words);
    button.type = "button";
    button.addEventListener("click", () => {
      mode = one;
      hidden.clear();
      for (const other of choices) other.setAttribute("aria-pressed", String(other === button));
      legend();
      show(chosen);
      draw();
    });
    button.setAttribute("aria-pressed", String(one === mode));
    return button;
  });
  byId("modes").replaceChildren(...(modes.length ? [element("span", "Colour by", "quiet small")] : []), ...choices);
  byId("closer").addEventListener("click", () => zoomBy(1.5));
  byId("farther").addEventListener("click", () => zoomBy(1 / 1.5));
  const whole = () => { zoom = 1; shift = { x: 0, y: 0 }; draw(); };
  byId("whole").addEventListener("click", whole);
  byId("pictures")?.addEventListener("click", (event) => {
    pictures = !pictures;
    event.currentTarget.setAttribute("aria-pressed", String(pictures));
    draw();
  });
  byId("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (let i = 0; words.length && i < count && found.length < MOST_FOUND; i++) {
      const text = `${points.title[i]} ${points.key[i]} ${points.source[i]}`.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(i);
    }
    const rows = found.map((i) => {
      const row = element("li"), button = element("button");
      button.type = "button";
      button.append(element("bdi", called(i)));
      button.addEventListener("click", () => choose(i));
      row.append(button);
      return row;
    });
    byId("found").hidden = !words.length;
    byId("found").replaceChildren(...(rows.length ? rows : [element("li", "no clip on the map is called so", "quiet")]));
  });

  // --- pointers and keys
  const held = new Map();
  let moved = 0, apart = 0;
  const spot = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("held");
    held.set(event.pointerId, spot(event));
    if (held.size === 1) moved = 0;
    apart = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = spot(event), before = held.get(event.pointerId);
    if (!before) {
      const found = event.pointerType === "mouse" ? nearestTo(now.x, now.y, NEAR_PX) : null;
      if (found !== pointed) { pointed = found; show(pointed ?? chosen); draw(); }
      return;
    }
    held.set(event.pointerId, now);
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (held.size === 2) {
      const [a, b] = [...held.values()], length = Math.hypot(a.x - b.x, a.y - b.y);
      if (apart) zoomBy(length / apart, (a.x + b.x) / 2, (a.y + b.y) / 2);
      apart = length;
    }
    shift = { x: shift.x + (now.x - before.x) / held.size, y: shift.y + (now.y - before.y) / held.size };
    draw();
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    apart = 0;
    if (held.size) { moved = Infinity; return; }
    canvas.classList.remove("held");
    if (event.type === "pointerup" && moved < 6) {
      const now = spot(event);
      choose(nearestTo(now.x, now.y, event.pointerType === "mouse" ? NEAR_PX : FINGER_PX));
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (pointed !== null) { pointed = null; show(chosen); draw(); } });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const now = spot(event);
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), now.x, now.y);
  }, { passive: false });

  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = ([x, y]) => {
    if (chosen === null) { choose(nearestTo(width / 2, height / 2, Infinity)); return; }
    const from = at(chosen);
    let best = null, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (i === chosen || !shown(i)) continue;
      const place = at(i), along = (place.x - from.x) * x + (place.y - from.y) * y;
      const aside = Math.abs((place.x - from.x) * y) + Math.abs((place.y - from.y) * x);
      const cost = along + 2 * aside;
      if (along > 0 && aside <= along * 1.2 && cost < least) { best = i; least = cost; }
    }
    if (best !== null) choose(best);
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ways[event.key];
    if (way && event.shiftKey) { shift = { x: shift.x - 60 * way[0], y: shift.y - 60 * way[1] }; draw(); }
    else if (way) step(way);
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") whole();
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  });

  new ResizeObserver(resize).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColours);
  image?.addEventListener("load", draw);
  legend();
  resize();
  readColours();
})();
