import type { RenderProps } from "@anywidget/types";

import { el as make } from "@agentaudit/components/dom.ts";
import { mount } from "@agentaudit/components/replay.ts";

import { attach } from "../model.ts";

interface Traits {
  /** Empty while no session is chosen in the view that this one follows. */
  session_id: string;
  command_no: number;
  speed: number;
}

function render({ model, el }: RenderProps<Traits>): () => void {
  let follow = () => {};
  let detach = () => {};

  function draw(): void {
    detach();
    if (!model.get("session_id")) {
      const note = make("p", { class: "aa-view aa-empty" }, "Select a command in the explorer: its session plays here.");
      el.append(note);
      detach = () => note.remove();
      return;
    }
    detach = attach(model, (source) => {
      const replay = mount(el, source, {
        commandNo: model.get("command_no"),
        speed: model.get("speed"),
        onSelect: (commandNo: number) => {
          model.set("command_no", commandNo);
          model.save_changes();
        },
      });
      follow = () => replay.goTo(model.get("command_no"));
      return replay;
    });
  }

  const followCommand = () => follow();
  model.on("change:session_id", draw);
  model.on("change:command_no", followCommand);
  draw();
  return () => {
    model.off("change:session_id", draw);
    model.off("change:command_no", followCommand);
    detach();
  };
}

export default { render };
