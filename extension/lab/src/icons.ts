import { LabIcon } from "@jupyterlab/ui-components";

/** Our mark: a record, with the line that was drawn under it. */
export const mark = new LabIcon({
  name: "agentaudit:mark",
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24">
  <path class="jp-icon3" fill="#616161" d="M12 2 4 5v6c0 5 3.4 9.4 8 11 4.6-1.6 8-6 8-11V5zm0 2.1 6 2.3V11c0 3.9-2.5 7.4-6 8.9-3.5-1.5-6-5-6-8.9V6.4z"/>
  <path class="jp-icon3" fill="#616161" d="M8 8h8v1.7H8zm0 3.2h8v1.7H8zm0 3.2h5v1.7H8z"/></svg>`,
});
