/* The picture in the IV-mixed panel, and asking for a new one when a setting has changed.

   The plan comes from the server (ivmixed/webui/page/live.py): this file only draws it. Above: the guidance of both models
   over the steps; on the way back it acts with a negative sign, so it stands below zero. Below: what each step runs, a
   block for every move; the ordinary step is the bottom row, in the image model's colour where that takes it, so that
   towers are what the extra loop costs. */
"use strict";

(() => {
    const PAUSE = 150; // ms after the last change of many, as a slider makes
    const PATIENCE = 2000; // ms at most for which the picture waits for an open list of presets
    const LOST = 10000; // ms after which an answer is not waited for any more
    const QUESTIONS = ["choose", "refresh"]; // what a panel asks the server, by the hidden button's name
    const waiting = {};
    const wanted = {}; // by panel, that is by how its ids begin: the questions that are still to be asked
    const asked = {}; // by panel: when the one was asked whose answer has not come yet
    const outdated = new Set(); // panels where a preset was chosen, or their list changed, since the question was asked
    const listed = {}; // by panel: the presets that its list has

    /** Called by the page for every change of a setting. */
    window.ivMixedChanged = (panel, patience = PATIENCE) => {
        clearTimeout(waiting[panel]);
        waiting[panel] = setTimeout(() => {
            if (listIsOpen(panel) && patience > 0) ivMixedChanged(panel, patience - PAUSE);
            else want(panel, "refresh");
        }, PAUSE);
        return [];
    };

    /** Called by the page when a preset is chosen from the list. */
    window.ivMixedChosen = (panel) => {
        outdated.add(panel);
        want(panel, "choose");
        return [];
    };

    /** Called by the page when the hidden button is pressed for it: the list as the last answer has it. */
    window.ivMixedRecognised = (panel) => {
        const {preset, presets} = gradioApp().querySelector(`#${panel}price [data-answer]`).dataset;
        listed[panel] = presets;
        const update = {__type__: "update", choices: JSON.parse(presets)};
        if (preset !== shownIn(panel)) update.value = preset;
        return [update];
    };

    /** One question of a panel at a time: two may be answered in the wrong order. The choice of a preset comes first. */
    function want(panel, question) {
        (wanted[panel] ??= new Set()).add(question);
        ask(panel);
    }

    function ask(panel) {
        if (Date.now() - (asked[panel] ?? -LOST) < LOST) return;
        const question = QUESTIONS.find((name) => wanted[panel]?.delete(name));
        if (!question) return;
        asked[panel] = Date.now();
        outdated.delete(panel);
        press(panel + question);
    }

    /** The list of presets shows the one that the settings are, unless there is a newer choice, or the list is open. */
    function answered(panel, {preset, presets}) {
        delete asked[panel];
        if (!outdated.has(panel) && (preset !== shownIn(panel) || presets !== listed[panel])) {
            if (listIsOpen(panel)) ivMixedChanged(panel);
            else press(`${panel}recognised`);
        }
        ask(panel);
    }

    const shownIn = (panel) => gradioApp().querySelector(`#${panel}preset input`)?.value;
    const listIsOpen = (panel) => gradioApp().querySelector(`#${panel}preset ul`) !== null;
    const panelOf = (element, name) => element.closest(`[id$=_ivmixed_${name}]`).id.slice(0, -name.length);

    function press(button) {
        gradioApp().getElementById(button)?.click();
    }

    /** Presets were saved, renamed or deleted in one panel: all ask for the list, and how theirs is called now. */
    function presetsChanged() {
        for (const button of gradioApp().querySelectorAll("[id$=_ivmixed_refresh]")) {
            const panel = panelOf(button, "refresh");
            outdated.add(panel);
            ivMixedChanged(panel);
        }
    }

    const MARGIN = {left: 30, right: 6, top: 8, bottom: 16};
    const CURVES = 120; // heights, in pixels
    const BLOCK = 7;
    const GAP = 10;

    const NAMES = {
        "image": "image model",
        "video": "video model",
        "ordinary": "ordinary step, at the CFG scale",
        "finish": "ordinary step by the image model",
        "noise": "fresh noise",
        "reused": "from memory",
    };

    function element(name, attributes, parent, text) {
        const made = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        if (text !== undefined) made.textContent = text;
        parent.append(made);
        return made;
    }

    const kindOf = (move) => move.split(" ").slice(0, 2).join(" ");

    function draw(box) {
        const width = box.clientWidth;
        if (!width || box.dataset.drawn == width) return;
        box.dataset.drawn = width;
        const {cfg, curves, steps} = JSON.parse(box.dataset.picture);
        const asked = new Set(steps.flat().map(kindOf));
        const shown = Object.entries(curves).filter(([name]) => asked.has(name)).sort().reverse(); // video below image
        const rows = Math.max(...steps.map((moves) => moves.length));

        const values = shown.flatMap(([, curve]) => curve).concat(cfg, 0);
        const [low, high] = [Math.min(...values), Math.max(...values, 1)];
        const column = (width - MARGIN.left - MARGIN.right) / steps.length;
        const x = (step) => MARGIN.left + step * column;
        const y = (value) => MARGIN.top + (high - value) / (high - low) * CURVES;
        const floor = MARGIN.top + CURVES + GAP + rows * BLOCK;

        const svg = element("svg", {width, height: floor + MARGIN.bottom, "aria-hidden": "true"}, document.createElement("div"));
        drawAxes(svg, {low, high, cfg, x, y, floor, count: steps.length, width});
        for (const [name, curve] of shown) drawCurve(svg, name, curve, steps, x, y);
        steps.forEach((moves, step) => drawMoves(svg, moves, x(step), column, floor));
        box.replaceChildren(svg, legend(steps));
    }

    function drawAxes(svg, {low, high, cfg, x, y, floor, count, width}) {
        const right = width - MARGIN.right;
        for (const value of new Set([low, 0, high, cfg])) {
            const kind = value === cfg ? "ivmixed-cfg" : "ivmixed-grid";
            element("line", {x1: MARGIN.left, x2: right, y1: y(value), y2: y(value), class: kind}, svg);
        }
        const taken = [];
        for (const value of [0, high, low, cfg]) { // a label that would lie on another is left out
            if (taken.some((other) => Math.abs(y(other) - y(value)) < 11)) continue;
            taken.push(value);
            element("text", {x: MARGIN.left - 5, y: y(value) + 4, class: "ivmixed-end"}, svg, +value.toFixed(1));
        }
        const every = Math.ceil(count / Math.max(1, Math.floor(width / 60)));
        for (let step = 0; step < count; step += every) {
            const middle = (x(step) + x(step + 1)) / 2;
            element("text", {x: middle, y: floor + 13, class: "ivmixed-middle"}, svg, step + 1);
        }
    }

    /** Faint over all steps, and strong where the model is asked. */
    function drawCurve(svg, name, curve, steps, x, y) {
        const level = (step) => `${x(step)} ${y(curve[step])}H${x(step + 1)}`;
        const all = curve.map((_, step) => (step ? "L" : "M") + level(step)).join("");
        const active = curve.map((_, step) => {
            if (!steps[step].some((move) => kindOf(move) === name)) return "";
            const before = step && steps[step - 1].some((move) => kindOf(move) === name);
            return (before ? "L" : "M") + level(step);
        }).join("");
        element("path", {d: all, class: `ivmixed-curve ivmixed-faint ${name}`}, svg);
        element("path", {d: active, class: `ivmixed-curve ${name}`}, svg);
    }

    /** The moves of a step from the bottom up: the ordinary one, then the loop's in order. */
    function drawMoves(svg, moves, left, column, floor) {
        const width = Math.max(1, Math.min(0.8 * column, 14));
        const upwards = [moves[moves.length - 1], ...moves.slice(0, -1)];
        upwards.forEach((move, row) => element("rect", {
            x: left + (column - width) / 2, y: floor - (row + 1) * BLOCK, width, height: BLOCK - 1.5,
            class: `ivmixed-move ${move}`,
        }, svg));
    }

    /** The kinds of moves that there are, in words. */
    function legend(steps) {
        const classes = new Set(steps.flat().flatMap((move) => {
            const [model, kind, reused] = move.split(" ");
            const ordinary = model === "image" ? "finish" : "ordinary";
            return [kind === "ordinary" ? ordinary : model, ...(reused ? ["reused"] : [])];
        }));
        const list = document.createElement("div");
        list.className = "ivmixed-legend";
        list.setAttribute("aria-hidden", "true");
        for (const [name, words] of Object.entries(NAMES)) {
            if (!classes.has(name)) continue;
            const entry = list.appendChild(document.createElement("span"));
            const mark = element("svg", {width: 12, height: 12}, entry);
            const kind = {
                ordinary: "video ordinary", finish: "image ordinary", reused: "video go reused prediction",
            }[name] || `${name} go`;
            element("rect", {x: 1, y: 1, width: 10, height: 10, class: `ivmixed-move ${kind}`}, mark);
            entry.append(document.createElement("span"));
            entry.lastChild.textContent = words;
        }
        return list;
    }

    const resized = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));

    onUiUpdate(() => {
        // first what makes an answer outdated: gradio 4 may show both at once
        for (const message of gradioApp().querySelectorAll("[id$=_ivmixed_preset_message] [role=status]:not([data-seen])")) {
            message.dataset.seen = "";
            presetsChanged();
        }
        for (const price of gradioApp().querySelectorAll("[id$=_ivmixed_price] [data-answer]:not([data-seen])")) {
            price.dataset.seen = "";
            answered(panelOf(price, "price"), price.dataset);
        }
        for (const box of gradioApp().querySelectorAll(".ivmixed-drawing:not([data-seen])")) {
            box.dataset.seen = "";
            resized.observe(box); // which draws at once, and again as the panel opens or the page is made narrower
        }
    });
    onUiLoaded(presetsChanged);
})();
