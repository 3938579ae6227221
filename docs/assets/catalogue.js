// Filters the catalogue. What is chosen is kept in the address, so that a view can be linked to.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const fields = ["query", "room", "kind", "status"].map((id) => document.getElementById(id));
  const count = document.getElementById("count");
  const body = document.querySelector("#papers tbody");
  const BREAKS = /[^\p{L}\p{N}.]+/gu;
  // "optimiser" and "optimizers" are the same word, found where a word begins as it does.
  const spelt = (text) => text.toLowerCase().replace(/is(e|es|ed|er|ers|ing|ation|ations)\b/g, "iz$1");
  const stem = (word) => (word.length > 4 ? word.replace(/(s|ed|ing)$/, "") : word);
  const rows = [...body.rows].map((row) => ({ row, ...row.dataset, words: ` ${spelt(row.dataset.words).replace(BREAKS, " ")}` }));
  const SMALL = new Set("a an and are be by for from has how i in is it my of on or that the to when which with".split(" "));

  function wanted(query) {
    const words = spelt(query).split(BREAKS).filter(Boolean);
    const telling = words.filter((word) => !SMALL.has(word));
    return (telling.length ? telling : words).map(stem);
  }

  function show() {
    const [query, room, kind, status] = fields.map((field) => field.value);
    const words = wanted(query);
    const fit = rows.filter(
      (each) => (!room || each.room === room) && (!kind || each.kind === kind) && (!status || each.status === status),
    );
    for (const each of fit) each.hits = words.filter((word) => each.words.includes(` ${word}`)).length;
    const most = Math.max(0, ...fit.map((each) => each.hits));
    const enough = words.length && most === 0 ? Infinity : most;
    const shown = new Set(fit.filter((each) => each.hits >= enough));
    for (const each of rows) each.row.hidden = !shown.has(each);
    const some = words.length > most && most > 0 ? `, none with all of the words; these have ${most} of ${words.length}` : "";
    count.textContent = shown.size ? `${shown.size} ${shown.size === 1 ? "paper" : "papers"}${some}` : "No paper fits.";
  }

  function keep() {
    const chosen = new URLSearchParams(fields.filter((field) => field.value).map((field) => [field.id, field.value]));
    history.replaceState(null, "", `#${chosen}`);
  }

  function restore() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) {
      field.value = chosen.get(field.id) ?? "";
      if (!field.value) field.value = ""; // a choice that is not offered
    }
    show();
  }

  form.addEventListener("input", () => { show(); keep(); });
  form.addEventListener("reset", () => setTimeout(() => { show(); keep(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", restore);
  restore();
})();
