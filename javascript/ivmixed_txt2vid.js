/* The tab txt2vid: its generations in the host's progress bar, and clips side by side that begin together. */
"use strict";

(() => {
    const TAB = "ivmixed_txt2vid";

    /** Called by the page with the values that a generation gets; gives them back, the first as the task's id. */
    window.ivMixedSubmit = (tab, values) => {
        const id = randomId();
        const find = (name) => gradioApp().getElementById(`${tab}_${name}`);
        const results = find("results");
        results.parentElement.classList.add("ivmixed-running");
        showSubmitButtons(tab, false);
        bringIntoView(results, find("clip_box"));
        requestProgress(id, find("clip_box"), find("clip_box"), () => {
            results.parentElement.classList.remove("ivmixed-running");
            bringMessageIntoView();
            showSubmitButtons(tab, true);
        });
        return [id, ...values.slice(1)];
    };

    /** Scrolls to the results where the clip would not be seen: on a narrow page, or far down. */
    function bringIntoView(results, clip) {
        const {top} = clip.getBoundingClientRect();
        const lowest = matchMedia("(max-width: 767px)").matches ? 1 / 3 : 3 / 5; // as style.css has the columns
        if (top >= 0 && top < innerHeight * lowest) return;
        results.scrollIntoView({block: "start"});
    }

    /** Once for each message, when it can be seen: the end of the task and the answer come in either order. */
    function bringMessageIntoView() {
        const message = gradioApp().querySelector(`#${TAB}_message [role=alert]:not([data-seen])`);
        if (!message || message.closest(".ivmixed-running")) return;
        message.dataset.seen = "";
        const show = () => message.scrollIntoView({block: "nearest"});
        show();
        let left = 10; // for a second, until the place of the progress bar is gone and the page is at rest
        const timer = setInterval(() => {
            show();
            if (--left === 0) clearInterval(timer);
        }, 100);
    }

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
        bringMessageIntoView();
        for (const figures of gradioApp().querySelectorAll(".ivmixed-clips:not([data-seen])")) {
            figures.dataset.seen = "";
            together(figures);
        }
    });
})();
