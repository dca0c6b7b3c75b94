import type { RenderProps } from "@anywidget/types";

import { mount } from "@agentaudit/components/replay.ts";

import { attach } from "../model.ts";

interface Traits {
  command_no: number;
  speed: number;
}

function render({ model, el }: RenderProps<Traits>): () => void {
  let follow = () => {};
  const detach = attach(model, (source) => {
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
  model.on("change:command_no", follow);
  return () => {
    model.off("change:command_no", follow);
    detach();
  };
}

export default { render };
