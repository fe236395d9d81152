"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const told = $("told");

  // --- a video that is on its way ---

  const form = $("upload");
  if (form) {
    const input = $("file");
    let sending = null;

    const line = (words, wrong = false) => {
      told.textContent = words;
      told.classList.toggle("warn", wrong);
    };
    const end = (words) => {
      sending = null;
      $("coming").hidden = true;
      input.disabled = false;
      input.value = ""; // so that the same file can be chosen again
      line(words, true);
    };

    const list = async () => { // in the very moment of its end a video may have been taken in: it is shown then
      try {
        const answer = await fetch("/", { headers: { Accept: "text/html" } });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const found = page.getElementById("jobs");
        if (found) $("jobs").replaceWith(found);
      } catch {
        // the server does not answer
      }
    };

    const send = (file) => {
      if (!file || sending) return;
      const most = Number(form.dataset.maxBytes);
      if (file.size > most) return end(`The file is larger than the ${most / 1e6} MB that are taken here.`);
      if (file.size === 0) return end("The file is empty.");
      const request = new XMLHttpRequest(); // fetch tells no progress
      sending = request;
      request.open("POST", `/jobs?name=${encodeURIComponent(file.name.toWellFormed ? file.name.toWellFormed() : file.name)}`);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.responseType = "json";
      request.upload.onprogress = (event) => {
        const share = event.loaded / Math.max(1, event.total);
        $("sent").value = 100 * share;
        line(share < 1 ? `Uploading: ${Math.floor(100 * share)}%` : "Looking into the file.");
      };
      request.onload = () => {
        const answer = request.response || {};
        if (request.status === 201) location.assign(answer.address);
        else end(answer.line || "The server refused the file.");
      };
      request.onerror = () => { end("The upload broke off; is the server still there? Try again."); list(); };
      request.onabort = () => { end("Cancelled."); list(); };
      $("coming").hidden = false;
      input.disabled = true;
      $("sent").value = 0;
      line("Uploading: 0%");
      request.send(file.slice()); // without a type of its own
    };

    input.addEventListener("change", () => send(input.files[0]));
    form.addEventListener("submit", (event) => event.preventDefault());
    $("cancel").addEventListener("click", () => sending && sending.abort());
    let inside = 0; // elements that the pointer is over; each tells its own coming and going
    const over = (step) => () => { inside = step ? Math.max(0, inside + step) : 0; form.classList.toggle("over", inside > 0); };
    form.addEventListener("dragenter", over(1));
    form.addEventListener("dragleave", over(-1));
    form.addEventListener("drop", over(0));
    // Anywhere: a video that misses the zone would else replace the page.
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      const files = event.dataTransfer.files;
      if (sending) return; // one video at a time: that one
      if (files.length > 1) end("One video at a time.");
      else send(files[0]);
    });
  }

  // --- a video that waits or is being judged ---

  const job = $("job");
  if (job) {
    const ask = async () => {
      let wait = 1000;
      try {
        const answer = await fetch("status", { headers: { Accept: "application/json" } });
        if (!answer.ok) return location.reload(); // deleted, or the server was restarted: it says which
        const { state, percent, says } = await answer.json();
        if (state !== "waiting" && state !== "judging") return location.reload();
        $("judged").value = percent;
        if (told.textContent !== says) told.textContent = says;
      } catch {
        told.textContent = "The server does not answer; asking again.";
        wait = 3000;
      }
      setTimeout(ask, wait);
    };
    ask();
  }

  // --- the player ---

  const player = $("player");
  if (player) {
    const narrow = matchMedia("(max-width: 640px)");
    const fit = () => { // on a phone the page scrolls, not the frame within it
      const inside = player.contentDocument && player.contentDocument.body;
      player.style.height = narrow.matches && inside ? `${inside.scrollHeight + 2}px` : "";
    };
    const watch = () => new ResizeObserver(fit).observe(player.contentDocument.body);
    if (player.contentDocument && player.contentDocument.readyState === "complete" && player.contentDocument.body.children.length) watch();
    player.addEventListener("load", watch);
    narrow.addEventListener("change", fit);
  }
})();
