/** What the kernel answers the masking preview with (`MaskingQuestions` of widgets/masking_preview.py). */

/** An excerpt of a value: what is before the part in question, that part, and what is behind it. */
export type Excerpt = [string, string, string];

/** Something that a rule would hide, where it is, and what would stand there instead. */
export interface Hit {
  place: string;
  column: string;
  rule: string;
  detector: string;
  how: string;
  before: Excerpt;
  after: Excerpt;
  /** Whether the value is taken away altogether. */
  is_dropped: boolean;
  doubts: string[];
}

export interface Counted {
  name: string;
  count: number;
}

export interface ColumnCounts {
  name: string;
  values: number;
  nulls: number;
  hidden: number;
  /** Values that were masked when they were recorded. */
  masked: number;
  /** Hits in it; there may be several in a value. */
  places: number;
  rules: string[];
}

export interface Summary {
  values: number;
  hidden: number;
  /** Of the hidden places those that can be listed. */
  kept: number;
  rules: Counted[];
  detectors: Counted[];
  columns: ColumnCounts[];
  candidates: number;
  uncovered: number;
  masked: { column: string; name: string; values: number }[];
  notes: string[];
}

export interface Opened extends Summary {
  text: string;
  before_text: string;
  source: string;
  is_recorded: boolean;
}

/** What is perhaps hidden wrongly. */
export interface Candidate {
  column: string;
  detector: string;
  rule: string;
  count: number;
  reason: string;
  examples: Hit[];
}

/** What would stay visible and looks like something to hide. */
export interface Uncovered {
  column: string;
  detector: string;
  kind: string;
  /** Of its values, 0 to 1. */
  share: number;
  values: number;
  /** Shown in part. */
  examples: string[];
  reason: string;
  /** A mask, as TOML, that would cover it. */
  rule: string;
}

export interface Rows<Row> {
  offset: number;
  total: number;
  rows: Row[];
}

export const PARTS = ["only_a", "only_b", "otherwise"] as const;
/** Of a difference: hidden by the rules before alone, by these alone, by both in another way. */
export type Part = (typeof PARTS)[number];
type Counts = { counts: Record<Part | "same", number> };

export interface MaskingAnswers {
  open: Opened;
  run: Summary;
  hits: Rows<Hit>;
  candidates: Rows<Candidate>;
  uncovered: Rows<Uncovered>;
  /** Of the parts `only_a` and `only_b`. */
  difference: Rows<Hit | { a: Hit; b: Hit }> & Counts;
}
