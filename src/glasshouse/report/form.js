(() => {
  const cards = [...document.querySelectorAll(".trial")];
  const name = document.getElementById("participant");
  const study = document.getElementById("finish").dataset.study;
  const shelf = `glasshouse-${study}`;
  const given = (card, what) => card.querySelector(`input[name="${what}-${card.id}"]:checked`)?.value ?? "";
  const open = (card) => !given(card, "answer");
  const token = "p" + [...crypto.getRandomValues(new Uint8Array(4))].map((part) => part.toString(16).padStart(2, "0")).join("");
  let state = { token, name: "", chosen: {} }, unsaved = false, here = -1;
  try { state = { ...state, ...JSON.parse(sessionStorage.getItem(shelf) ?? "{}") }; } catch { /* nothing is kept */ }
  for (const [group, value] of Object.entries(state.chosen)) {
    const input = document.querySelector(`input[name="${CSS.escape(group)}"][value="${CSS.escape(value)}"]`);
    if (input) input.checked = true;
  }
  name.value = state.name;
  const show = () => {
    const done = cards.filter((card) => !open(card)).length;
    for (const card of cards) card.classList.toggle("answered", !open(card));
    for (const bar of document.querySelectorAll("progress")) bar.value = done;
    for (const text of document.querySelectorAll(".done")) text.textContent = `${done} of ${cards.length} answered`;
    document.getElementById("next").textContent = done < cards.length ? "Next open question" : "To the end";
  };
  const keep = () => {
    unsaved = true;
    state.name = name.value;
    for (const input of document.querySelectorAll(".trial input:checked")) state.chosen[input.name] = input.value;
    try { sessionStorage.setItem(shelf, JSON.stringify(state)); } catch { /* the page itself still holds them */ }
    show();
  };
  for (const input of document.querySelectorAll(".trial input, #participant")) input.addEventListener("change", keep);
  // the button has the focus itself when it is pressed, so the question that had it before is kept
  cards.forEach((card, place) => card.addEventListener("focusin", () => { here = place; }));
  document.getElementById("next").addEventListener("click", () => {
    const later = [...cards.slice(here + 1), ...cards.slice(0, here + 1)].find(open);
    const goal = later ?? document.getElementById("finish");
    goal.scrollIntoView();
    goal.querySelector(later ? ".ask input" : "#participant").focus({ preventScroll: true });
  });
  const table = (who) => ["study,participant,trial,answer,confidence", ...cards.map((card) =>
    [study, who, card.id, given(card, "answer"), given(card, "sure")].join(","))].join("\r\n") + "\r\n";
  document.getElementById("save").addEventListener("click", () => {
    const who = name.value.normalize().replace(/[^\p{L}\p{M}\p{N} ._-]/gu, "").replace(/^[-\s]+|\s+$/g, "") || state.token;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table(who)], { type: "text/csv" }));
    link.download = `answers-${study}-${who.replace(/[ .]+/g, "_")}.csv`;
    link.click();
    unsaved = false;
    const left = cards.filter(open).length;
    document.getElementById("told").textContent = `Saved as ${link.download}. Please send this file back.` +
      (left ? ` ${left} ${left === 1 ? "question is" : "questions are"} still open.` : "");
  });
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  show();
})();
