// The home page. Each card asks one address for its state and draws what comes back; nothing is decided here.
(() => {
  "use strict";

  const BUSY_MS = 1000;
  const IDLE_MS = 5000;
  const BUSY_STATES = new Set(["starting", "stopping", "restarting", "resetting", "stalled", "waiting"]);
  const WORDS = { start: "Start", open: "Open", stop: "Stop", restart: "Restart", volumes: "Manage volumes" };

  const hub = window.jhdata.base_url;
  const live = document.getElementById("steward-live");

  class LoggedOut extends Error {}

  async function call(method, path, body) {
    const response = await fetch(hub + "api/" + path, {
      method,
      redirect: "error",
      headers: { "X-XSRFToken": window.jhdata.xsrf_token, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (response.status === 401 || response.status === 403) {
      throw new LoggedOut();
    }
    const text = await response.text();
    const data = text ? JSON.parse(text) : {};
    if (!response.ok) {
      throw new Error(data.message || "The hub answered with an error (" + response.status + ").");
    }
    return data;
  }

  function say(text) {
    if (live.textContent !== text) {
      live.textContent = text;
    }
  }

  function join(words) {
    return words.length < 2 ? words.join("") : words.slice(0, -1).join(", ") + " and " + words[words.length - 1];
  }

  function size(bytes) {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    let at = 0;
    while (bytes >= 1000 && at < units.length - 1) {
      bytes /= 1000;
      at += 1;
    }
    return (at ? bytes.toFixed(1) : bytes) + " " + units[at];
  }

  function describe(backup) {
    const made = new Date(backup.createdAt).toLocaleString();
    if (backup.files === undefined) {
      // A snapshot; only its storage knows what is in it.
      return made + " (snapshot)";
    }
    const files = backup.files === 1 ? "1 file" : backup.files + " files";
    return made + " (" + files + ", " + size(backup.bytes) + ")";
  }

  function button(text, look, press) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = "btn btn-sm " + look;
    element.textContent = text;
    element.addEventListener("click", () => press(element));
    return element;
  }

  class Card {
    constructor(element) {
      this.element = element;
      this.user = element.dataset.user;
      this.server = element.dataset.server;
      this.label = element.dataset.label;
      this.state = null;
      this.following = null;
      this.shownOutcome = null;
      this.timer = null;
      const user = encodeURIComponent(this.user);
      const server = encodeURIComponent(this.server);
      this.path = "steward/v1/users/" + user + (server ? "/servers/" + server : "/server");
      this.requests = "steward/v1/users/" + user + "/requests/";
      this.hubPath = "users/" + user + (server ? "/servers/" + server : "/server");
      this.on("stop", () => this.stop());
      this.on("restart", (opener) => restartDialog.open(this, opener));
      this.on("volumes", (opener) => volumesDialog.open(this, opener));
      this.on("cancel", () => this.cancel());
      this.on("remove", () => this.remove());
    }

    on(action, handler) {
      const button = this.element.querySelector(`[data-action="${action}"]`);
      if (button) {
        button.addEventListener("click", () => handler(button));
      }
    }

    part(role) {
      return this.element.querySelector(`[data-role="${role}"]`);
    }

    async refresh() {
      clearTimeout(this.timer);
      try {
        this.draw(await call("GET", this.path));
      } catch (problem) {
        this.drawProblem(problem);
      }
      const busy = this.state && (this.state.active || BUSY_STATES.has(this.state.state));
      this.timer = setTimeout(() => this.refresh(), busy ? BUSY_MS : IDLE_MS);
    }

    draw(state) {
      this.state = state;
      this.element.dataset.state = state.state;
      this.part("title").textContent = state.title;
      this.part("sentence").textContent = state.sentence;
      this.part("next").textContent = state.next;
      this.drawButtons(state);
      this.drawProgress(state.active);
      if (!state.last || state.active) {
        this.part("remedies").hidden = true;
      }
      if (state.active) {
        this.following = state.active.name;
        this.shownOutcome = null;
        this.part("outcome").hidden = true;
      } else if (state.last) {
        this.drawOutcome(state.last);
        this.drawRemedies(state);
      }
    }

    // What may be done about the last outcome, for as long as it may.
    drawRemedies(state) {
      const wanted = state.last.outcomes.filter((row) => row.backup && state.buttons.volumes.allowed);
      const offers = [];
      for (const row of wanted) {
        const volume = state.volumes.find((one) => one.kind === row.volume);
        const backup = volume && volume.backups.find((one) => one.name === row.backup);
        if (backup) {
          offers.push({ volume, backup });
        }
      }
      // A crash in place may be for good; a new pod gets everything anew.
      const crashed = state.last.reason === "LabCrashed" && state.buttons.restart.allowed;
      const box = this.part("remedies");
      box.hidden = offers.length === 0 && !crashed;
      const key = offers.map((offer) => offer.backup.name).join(" ") + (crashed ? "crashed" : "");
      if (box.dataset.key === key) {
        return;
      }
      box.dataset.key = key;
      box.replaceChildren(
        ...offers.map(({ volume, backup }) =>
          button("Undo: put " + volume.title.toLowerCase() + " back", "btn-outline-secondary", (opener) =>
            undoDialog.offer(this, opener, volume, backup),
          ),
        ),
        ...(crashed ? [button("Stop and start it anew", "btn-outline-secondary", () => this.recreate())] : []),
      );
    }

    drawButtons(state) {
      const reasons = [];
      for (const [name, button] of Object.entries(state.buttons)) {
        const element = this.element.querySelector(`[data-action="${name}"]`);
        if (name === "open" || name === "start") {
          element.hidden = !button.allowed;
          element.href = name === "open" ? state.server.url : this.element.dataset.spawnUrl;
        } else {
          element.disabled = !button.allowed;
        }
        if (!button.allowed && (name === "restart" || name === "volumes")) {
          reasons.push(WORDS[name] + ": " + button.why);
        }
      }
      const remove = this.element.querySelector('[data-action="remove"]');
      if (remove) {
        remove.disabled = state.state !== "stopped";
      }
      const list = this.part("reasons");
      list.replaceChildren(
        ...reasons.map((reason) => {
          const item = document.createElement("li");
          item.textContent = reason;
          return item;
        }),
      );
    }

    drawProgress(active) {
      this.part("progress").hidden = !active;
      if (!active) {
        return;
      }
      this.part("progress-text").textContent = active.message + this.askedBySomebodyElse(active, " Asked by ");
      this.element.querySelector('[data-action="cancel"]').hidden = !active.cancellable;
      say(active.message);
    }

    askedBySomebodyElse(request, words) {
      const by = request.requestedBy;
      return by && by.name !== this.user ? words + by.name : "";
    }

    drawOutcome(request) {
      if (this.shownOutcome === request.name) {
        return;
      }
      this.shownOutcome = request.name;
      const good = request.phase === "Succeeded";
      const neutral = request.phase === "Cancelled";
      const box = this.part("outcome");
      const words = document.createElement("p");
      words.className = "mb-0";
      words.textContent = (good ? "Done. " : neutral ? "Called off. " : "Not done. ") + request.message;
      const when = document.createElement("p");
      when.className = "small mb-0";
      when.textContent =
        (request.kind === "ServerRestart" ? "Restart" : "Reset of " + join(request.volumes)) +
        ", " +
        new Date(request.completedAt || request.createdAt).toLocaleString() +
        this.askedBySomebodyElse(request, ", asked by ");
      box.className = "mt-3 alert mb-0 " + (good ? "alert-success" : neutral ? "alert-secondary" : "alert-danger");
      box.replaceChildren(words, when);
      if (request.lastWords) {
        const log = document.createElement("pre");
        log.className = "steward-last-words small mt-2 mb-0";
        log.tabIndex = 0;
        log.setAttribute("aria-label", "The server's last words");
        log.textContent = request.lastWords;
        box.append(log);
      }
      box.dataset.request = request.name;
      box.hidden = false;
      if (this.following === request.name) {
        say(words.textContent);
        this.following = null;
      }
    }

    drawProblem(problem) {
      const out = problem instanceof LoggedOut;
      this.state = null;
      this.element.dataset.state = out ? "logged-out" : "hub-away";
      this.part("title").textContent = out ? "Logged out" : "Hub away";
      this.part("sentence").textContent = out
        ? "You are logged out."
        : "The hub does not answer. Your server goes on by itself, and what was asked for continues.";
      this.part("next").textContent = out ? "Load this page again to log in." : "This page tries again by itself.";
      this.part("progress").hidden = true;
      this.part("remedies").hidden = true;
      for (const element of this.element.querySelectorAll("[data-role=buttons] button")) {
        element.disabled = true;
      }
      say(this.part("sentence").textContent);
    }

    async act(method, path, body) {
      try {
        const answer = await call(method, path, body);
        if (answer.request) {
          this.following = answer.request.name;
        }
      } catch (problem) {
        this.tell(problem);
      }
      await this.refresh();
    }

    tell(problem) {
      const box = this.part("outcome");
      box.className = "mt-3 alert alert-danger mb-0";
      box.textContent = problem instanceof LoggedOut ? "You are logged out, or may not do this." : problem.message;
      box.hidden = false;
      this.shownOutcome = null;
      if (this.state && this.state.last) {
        // What is shown now is newer than the last request's outcome.
        this.shownOutcome = this.state.last.name;
      }
      say(box.textContent);
    }

    restart() {
      return this.act("POST", this.path + "/restart", {});
    }

    recreate() {
      return this.act("POST", this.path + "/restart", { strategy: "Recreate" });
    }

    reset(volumes) {
      const expected = Object.fromEntries(volumes.map((volume) => [volume.kind, volume.uid]));
      return this.act("POST", this.path + "/reset", { volumes: Object.keys(expected), expected });
    }

    putBack(volume, backup) {
      const expected = { [volume.kind]: volume.uid };
      return this.act("POST", this.path + "/reset", { volumes: [volume.kind], expected, putBack: backup.name });
    }

    stop() {
      return this.act("DELETE", this.hubPath);
    }

    cancel() {
      return this.act("POST", this.requests + this.state.active.name + "/cancel", {});
    }

    async remove() {
      await this.act("DELETE", this.hubPath, { remove: true });
      window.location.reload();
    }
  }

  class Dialog {
    constructor(id) {
      this.element = document.getElementById(id);
      this.next = null;
      this.modal = new window.bootstrap.Modal(this.element);
      this.confirm = this.part("confirm");
      this.confirm.addEventListener("click", () => this.go());
      this.element.addEventListener("hidden.bs.modal", () => this.giveFocusBack());
    }

    part(role) {
      return this.element.querySelector(`[data-role="${role}"]`);
    }

    open(card, opener) {
      this.card = card;
      this.opener = opener;
      this.prepare();
      this.modal.show();
    }

    giveFocusBack() {
      if (this.next) {
        // Another dialog takes over.
        const next = this.next;
        this.next = null;
        next();
        return;
      }
      // The opener may be disabled by now; the card's heading region takes the focus then.
      if (this.opener.disabled) {
        this.card.element.tabIndex = -1;
        this.card.element.focus();
      } else {
        this.opener.focus();
      }
    }
  }

  class RestartDialog extends Dialog {
    prepare() {
      this.part("what").textContent = "This restarts the " + this.card.label.replace(/^Server/, "server") + ".";
    }

    go() {
      this.modal.hide();
      this.card.restart();
    }
  }

  class VolumesDialog extends Dialog {
    prepare() {
      this.volumes = this.card.state.volumes;
      this.part("volumes").replaceChildren(...this.volumes.map((volume) => this.row(volume)));
      this.redraw();
    }

    row(volume) {
      const row = document.createElement("div");
      row.className = "form-check mb-2";
      const box = document.createElement("input");
      box.type = "checkbox";
      box.className = "form-check-input";
      box.id = "steward-volume-" + volume.kind;
      box.value = volume.kind;
      box.disabled = !volume.resettable;
      box.addEventListener("change", () => this.redraw());
      const label = document.createElement("label");
      label.className = "form-check-label";
      label.htmlFor = box.id;
      label.textContent = volume.title + " (" + volume.capacity + ")";
      const about = document.createElement("div");
      about.className = "small text-body-secondary";
      about.id = box.id + "-about";
      about.textContent = volume.why || volume.description || volume.mountPath;
      box.setAttribute("aria-describedby", about.id);
      row.append(box, label, about);
      if (volume.backups.length && volume.resettable) {
        row.append(this.backups(volume));
      }
      return row;
    }

    backups(volume) {
      const list = document.createElement("ul");
      list.className = "list-unstyled small mb-0 mt-1";
      list.setAttribute("aria-label", "Backups of " + volume.title.toLowerCase());
      for (const backup of volume.backups) {
        const item = document.createElement("li");
        item.className = "d-flex align-items-center gap-2 mb-1";
        const words = document.createElement("span");
        words.textContent = "Backup of " + describe(backup);
        const put = button("Put back", "btn-outline-secondary", () => {
          this.next = () => undoDialog.offer(this.card, this.opener, volume, backup);
          this.modal.hide();
        });
        put.setAttribute("aria-label", "Put the backup of " + describe(backup) + " back");
        item.append(words, put);
        list.append(item);
      }
      return list;
    }

    chosen() {
      const kinds = new Set(Array.from(this.element.querySelectorAll("input:checked"), (box) => box.value));
      return this.volumes.filter((volume) => kinds.has(volume.kind));
    }

    redraw() {
      const chosen = this.chosen();
      const kept = this.volumes.filter((volume) => !chosen.includes(volume));
      this.confirm.disabled = chosen.length === 0;
      this.confirm.textContent = chosen.length ? "Erase " + join(chosen.map((v) => v.title.toLowerCase())) : "Erase";
      this.part("what").textContent = chosen.length
        ? "This erases " +
          join(chosen.map((v) => this.card.user + "'s " + v.title.toLowerCase() + " (" + v.capacity + ")")) +
          "." +
          (kept.length ? " " + join(kept.map((v) => v.title)) + (kept.length > 1 ? " stay." : " stays.") : "") +
          this.backedUp(chosen)
        : "";
    }

    backedUp(chosen) {
      const safe = chosen.filter((volume) => volume.backup !== "None");
      const lost = chosen.filter((volume) => volume.backup === "None");
      const titles = (volumes) => join(volumes.map((volume) => volume.title.toLowerCase()));
      if (safe.length === 0) {
        return " There is no backup. This cannot be undone.";
      }
      return (
        " A backup of " + titles(safe) + " is made first, so that this can be undone." +
        (lost.length ? " There is none of " + titles(lost) + "." : "")
      );
    }

    go() {
      const chosen = this.chosen();
      this.modal.hide();
      this.card.reset(chosen);
    }
  }

  class UndoDialog extends Dialog {
    offer(card, opener, volume, backup) {
      this.volume = volume;
      this.backup = backup;
      this.open(card, opener);
    }

    prepare() {
      const title = this.volume.title.toLowerCase();
      this.part("what").textContent =
        "This puts the backup of " + describe(this.backup) + " back into " + this.card.user + "'s " + title + ".";
      this.confirm.textContent = "Put " + title + " back";
    }

    go() {
      this.modal.hide();
      this.card.putBack(this.volume, this.backup);
    }
  }

  const restartDialog = new RestartDialog("steward-restart");
  const volumesDialog = new VolumesDialog("steward-volumes");
  const undoDialog = new UndoDialog("steward-undo");
  const cards = Array.from(document.querySelectorAll(".steward-card"), (element) => new Card(element));
  cards.forEach((card) => card.refresh());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      cards.forEach((card) => card.refresh());
    }
  });

  const form = document.getElementById("steward-new-server");
  if (form) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      window.location.href = form.dataset.spawnUrl + encodeURIComponent(document.getElementById("steward-new-name").value);
    });
  }
})();
