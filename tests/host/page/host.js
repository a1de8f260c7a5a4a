/* What the hosts' own scripts give to those of extensions, as far as the panel needs it. */
"use strict";

const callbacks = {loaded: [], update: []};
const onUiLoaded = (callback) => callbacks.loaded.push(callback);
const onUiUpdate = (callback) => callbacks.update.push(callback);
const gradioApp = () => {
    const app = document.getElementsByTagName("gradio-app")[0] || document;
    if (app !== document) app.getElementById = (id) => document.getElementById(id);
    return app;
};

/* InputAccordion: its hidden checkbox follows the accordion, and the accordion follows the checkbox */
function inputAccordionChecked(id, checked) {
    const accordion = document.getElementById(id);
    if (accordion.isOpen() !== checked) accordion.label.click();
}

function setUpAccordion(accordion) {
    const checkbox = document.querySelector(`#${accordion.id}-checkbox input`);
    accordion.label = accordion.querySelector(".label-wrap");
    accordion.isOpen = () => accordion.label.classList.contains("open");
    const extra = document.getElementById(`${accordion.id}-extra`);
    if (extra) accordion.label.insertBefore(extra, accordion.label.lastElementChild);
    new MutationObserver(() => {
        checkbox.checked = accordion.isOpen();
        checkbox.dispatchEvent(new Event("input", {bubbles: true}));
        checkbox.dispatchEvent(new Event("change", {bubbles: true}));
    }).observe(accordion.label, {attributes: true, attributeFilter: ["class"]});
}

/* generations: the buttons of a tab while one runs, and its progress */
const randomId = () => `task(${Math.random().toString(36).slice(2)})`;

function showSubmitButtons(tab, show) {
    for (const name of ["interrupt", "skip"]) {
        document.getElementById(`${tab}_${name}`).style.display = show ? "none" : "block";
    }
}

function requestProgress(id, container, gallery, atEnd) {
    const bar = container.parentNode.insertBefore(document.createElement("div"), container);
    bar.className = "progressDiv";
    const poll = async () => {
        const answer = await fetch("internal/progress", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({id_task: id})});
        const {active, completed, progress} = await answer.json();
        if (active) bar.textContent = `${Math.round(100 * progress)}%`;
        if (completed) {
            bar.remove();
            atEnd();
        } else setTimeout(poll, 50);
    };
    poll();
}

const switch_to_txt2img = () => document.querySelector("#tabs button").click();
const recalculate_prompts_txt2img = (...values) => values;

document.addEventListener("DOMContentLoaded", () => {
    let loaded = false;
    new MutationObserver((records) => {
        if (!loaded && document.querySelector("#txt2img_prompt")) {
            loaded = true;
            document.querySelectorAll(".input-accordion").forEach(setUpAccordion);
            callbacks.loaded.forEach((callback) => callback());
        }
        callbacks.update.forEach((callback) => callback(records));
    }).observe(gradioApp(), {childList: true, subtree: true});
});
