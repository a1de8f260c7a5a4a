/* The picture in the IV-mixed panel, and asking for a new one when a setting has changed.

   The plan comes from the server (ivmixed/webui/page/live.py): this file only draws it. Above: the guidance of both models
   over the steps; on the way back it acts with a negative sign, so it stands below zero. Below: what each step runs, a
   block for every move; the ordinary step is the bottom row, in the image model's colour where that takes it, so that
   towers are what the extra loop costs. */
"use strict";

(() => {
    const PAUSE = 150; // ms after the last change of many, as a slider makes
    const PATIENCE = 2000; // ms at most for which an open list of presets is left open
    const LOST = 10000; // ms after which an answer is not waited for any more
    const waiting = {};
    const asked = {}; // when the answer was asked for that has not come yet
    const outdated = new Set(); // what changed since: two questions at a time may be answered in the wrong order

    /** Called by the page for every change of a setting; `button` is the id of the hidden one that asks the server. */
    window.ivMixedChanged = (button, patience = PATIENCE) => {
        clearTimeout(waiting[button]);
        waiting[button] = setTimeout(() => {
            const list = gradioApp().querySelector(`#${button.replace(/refresh$/, "preset")} ul`);
            if (list && patience > 0) ivMixedChanged(button, patience - PAUSE); // the answer would close it
            else ask(button);
        }, PAUSE);
        return [];
    };

    function ask(button) {
        if (Date.now() - (asked[button] ?? -LOST) < LOST) {
            outdated.add(button);
            return;
        }
        asked[button] = Date.now();
        outdated.delete(button);
        gradioApp().getElementById(button)?.click();
    }

    function answered(button) {
        delete asked[button];
        if (outdated.has(button)) ask(button);
    }

    /** Presets were saved, renamed or deleted in one panel: the others ask for the list, and how it is called now. */
    function tellOthers(message) {
        const own = message.closest("[id$=_ivmixed_preset_message]").id;
        for (const button of gradioApp().querySelectorAll("[id$=_ivmixed_relist]")) {
            if (button.id.replace("relist", "preset_message") === own) continue;
            button.click();
            ivMixedChanged(button.id.replace("relist", "refresh"));
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
        for (const price of gradioApp().querySelectorAll("[id$=_ivmixed_price] [data-answer]:not([data-seen])")) {
            price.dataset.seen = "";
            answered(price.closest("[id$=_ivmixed_price]").id.replace(/price$/, "refresh"));
        }
        for (const message of gradioApp().querySelectorAll("[id$=_ivmixed_preset_message] [role=status]:not([data-seen])")) {
            message.dataset.seen = "";
            tellOthers(message);
        }
        for (const box of gradioApp().querySelectorAll(".ivmixed-drawing:not([data-seen])")) {
            box.dataset.seen = "";
            resized.observe(box); // which draws at once, and again as the panel opens or the page is made narrower
        }
    });
    onUiLoaded(() => {
        for (const button of gradioApp().querySelectorAll("[id$=_ivmixed_refresh]")) ivMixedChanged(button.id);
    });
})();
