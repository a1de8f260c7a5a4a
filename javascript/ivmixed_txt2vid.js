/* The tab txt2vid: its generations in the host's progress bar, and clips side by side that begin together. */
"use strict";

(() => {
    const TAB = "ivmixed_txt2vid";

    /** Called by the page with the values that a generation gets; gives them back, the first as the task's id. */
    window.ivMixedSubmit = (tab, values) => {
        const id = randomId();
        const find = (name) => gradioApp().getElementById(`${tab}_${name}`);
        showSubmitButtons(tab, false);
        requestProgress(id, find("clip_box"), find("clip_box"), () => showSubmitButtons(tab, true));
        return [id, ...values.slice(1)];
    };

    // the host's paste buttons call these by the tab's name
    window[`switch_to_${TAB}`] = (...values) => values;
    window[`recalculate_prompts_${TAB}`] = (...values) => values;

    const ready = (clip) => new Promise((resolve) => {
        const done = clip.tagName === "IMG" ? clip.complete : clip.readyState >= 2;
        if (done) resolve();
        else ["load", "loadeddata", "error"].forEach((name) => clip.addEventListener(name, resolve, {once: true}));
    });

    async function together(figures) {
        const clips = [...figures.querySelectorAll("img, video")];
        await Promise.all(clips.map(ready));
        for (const clip of clips) {
            if (clip.tagName === "IMG") clip.src = clip.src; // a moving picture begins anew
            else clip.currentTime = 0;
        }
    }

    onUiUpdate(() => {
        for (const figures of gradioApp().querySelectorAll(".ivmixed-clips:not([data-seen])")) {
            figures.dataset.seen = "";
            together(figures);
        }
    });
})();
