#!/usr/bin/env bash
# The paper's pipeline on real weights (arXiv 2503.06287): from RefCOCO's files to heads, boxes, tables and a report.
#
#   bash examples/paper/run.sh                              # LLaVA-1.5-7B, RefCOCO val
#   MODEL=llava15_13b bash examples/paper/run.sh
#   DATASET=data/refcoco+ SPLIT=testA bash examples/paper/run.sh
#   LAUNCH="accelerate launch --num_processes 8" bash examples/paper/run.sh model.dtype=bfloat16
#
# The variables below may be set in the environment. Further arguments go to every `pipeline.py` call as key=value.
# Stopped at any moment, the same command goes on: it converts and collects only what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-llava15_7b}                     # a preset of conf/model
DATASET=${DATASET:-data/refcoco}               # folder with refs(SPLIT_BY).p and instances.json
IMAGES=${IMAGES:-data/train2014}               # folder of COCO's train2014 pictures
SPLIT_BY=${SPLIT_BY:-unc}                      # umd for RefCOCOg
SPLIT=${SPLIT:-val}                            # the split that is measured
FIND=${FIND:-10000}                            # expressions of the train split that find the heads
DRAW=${DRAW:-1000}                             # how many of them each of the ten draws counts
SAM=${SAM:-auto}                               # a preset of conf/refine for the sharp masks (RES); auto: SAM ViT-H; none
OUT=${OUT:-runs/paper/$MODEL/$(basename "$DATASET")} # everything that is written
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
LAUNCH=${LAUNCH:-$PYTHON}                      # what starts pipeline.py where the model runs

fail() {
  echo "error: $*" >&2
  exit 2
}

step() {
  printf '\n== %s\n' "$*"
}

# What it takes

cat <<NEEDS
The paper's pipeline: $MODEL on $DATASET, split $SPLIT, into $OUT. For llava15_7b on RefCOCO val it needs
  pictures    COCO's train2014, 13 GB, which must be there: $IMAGES
  weights     15 GB, downloaded to HF_HOME at the first run, and 2.6 GB for SAM ViT-H
  records     0.2 GB to find the heads; then 10,834 records of 32 x 32 x 576 x 2 bytes = 1.2 MB, 13 GB
  GPU memory  16 GB
  GPU time    700 tokens for one picture and its 7 expressions, 2 x 6.7e9 x 700 = 9.4 TFLOP. 1,500 pictures of val and
              at most 10,000 to find the heads: 108 PFLOP, 18 minutes where 100 TFLOP/s are sustained
  SAM         2 x 0.63e9 x 4,096 = 5 TFLOP and its attention for each of the 1,500 pictures, in float32; it is loaded
              when LLaVA has left the memory
  CPU time    not measured at this size: evaluate and study read the 13 GB twice each, and evaluate makes a box from
              each of 1,024 heads for every record. Allow a few hours.
The figures are arithmetic, not measurements: this has not been run with real weights yet.
NEEDS
disk=$OUT
until [ -d "$disk" ]; do disk=$(dirname "$disk"); done
gpus=$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null | paste -sd ';' || true)
echo "Here: $(df -Ph "$disk" | awk 'NR == 2 {print $4}') free for $OUT; GPU: ${gpus:-none found, a CPU takes far longer}"

# What must be there

command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not there: run make demo once, or name another"
command -v shuf >/dev/null || fail "shuf is missing: install GNU coreutils"
"$PYTHON" -c "import hydra, torch, transformers" 2>/dev/null ||
  fail "$PYTHON lacks the project's libraries: pip install -r requirements.txt -c constraints.txt"
[ -f "conf/model/$MODEL.yaml" ] || fail "MODEL=$MODEL: choose from $(basename -s .yaml conf/model/*.yaml | paste -sd ' ')"
[ "$SAM" = none ] || [ -f "conf/refine/$SAM.yaml" ] ||
  fail "SAM=$SAM: choose from none $(basename -s .yaml conf/refine/*.yaml | paste -sd ' ')"
[ -f "$DATASET/refs($SPLIT_BY).p" ] || fail "no refs($SPLIT_BY).p in DATASET=$DATASET: the folder as its authors distribute it"
[ -f "$DATASET/instances.json" ] || fail "no instances.json in DATASET=$DATASET: the folder as its authors distribute it"
[ -n "$(find -L "$IMAGES" -maxdepth 1 -name 'COCO_train2014_*.jpg' -print -quit 2>/dev/null)" ] ||
  fail "no COCO_train2014_*.jpg in IMAGES=$IMAGES: unpack COCO's train2014.zip there"
[[ $FIND =~ ^[1-9][0-9]*$ && $DRAW =~ ^[1-9][0-9]*$ && $DRAW -le $FIND ]] ||
  fail "FIND=$FIND, DRAW=$DRAW: expected whole numbers, DRAW no larger than FIND"
mkdir -p "$OUT" || fail "cannot write into OUT=$OUT"

# The pipeline

common=(model="$MODEL" logic=paper)

# collect FILE FOLDER KEY=VALUE...: a record for every line of the file. Samples that fail are listed in errors.jsonl, and
# the run goes on without them; a run that stops leaves no summary.json.
collect() {
  rm -f "$2"/*/summary.json
  # shellcheck disable=SC2086 # LAUNCH may be several words
  $LAUNCH pipeline.py stage=batch "${common[@]}" model.attention=fused data.process_all=true \
    data.data_file="$1" data.output_dir="$2" "${@:3}" ||
    ls "$2"/*/summary.json >/dev/null 2>&1 || fail "stage=batch has stopped; the same command goes on where it was"
}

# convert SPLIT FILE
convert() {
  [ -f "$2" ] || "$PYTHON" -m lab.datasets convert refcoco "$DATASET" --images "$IMAGES" --split "$1" \
    --split-by "$SPLIT_BY" --final-period --out "$2"
}

step "1/6 one line per expression: $OUT/train.jsonl, $OUT/$SPLIT.jsonl"
convert train "$OUT/train.jsonl"
convert "$SPLIT" "$OUT/$SPLIT.jsonl"

step "2/6 the heads, without a label: $FIND expressions, of which only every head's scores are kept"
found=$OUT/find$FIND.jsonl
[ -f "$found" ] || {
  shuf -n "$FIND" --random-source="$OUT/train.jsonl" "$OUT/train.jsonl" >"$found.part"
  mv "$found.part" "$found"
}
collect "$found" "$OUT/find$FIND" data.save_attention=none "$@"
"$PYTHON" pipeline.py stage=select "${common[@]}" logic.select.samples="$DRAW" data.output_dir="$OUT/find$FIND" "$@"
heads=$(ls "$OUT/find$FIND"/*/localization_heads.json)

step "3/6 whole records of $SPLIT"
collect "$OUT/$SPLIT.jsonl" "$OUT/$SPLIT" "$@"
measured=("${common[@]}" logic.heads="$heads" data.data_file="$OUT/$SPLIT.jsonl" data.output_dir="$OUT/$SPLIT")

step "4/6 boxes and masks beside all controls; SAM's masks by what it is asked with"
sharp=()
[ "$SAM" = none ] || sharp=(logic.refine=sam refine="$SAM")
"$PYTHON" pipeline.py stage=evaluate "${measured[@]}" ${sharp[@]+"${sharp[@]}"} "$@"

step "5/6 the paper's tables from the same records, and a page with everything"
"$PYTHON" pipeline.py stage=study "${measured[@]}" "$@"
"$PYTHON" pipeline.py stage=report "${measured[@]}" ${sharp[@]+"${sharp[@]}"} "$@"

step "6/6 the paper's figures, and those of this run"
"$PYTHON" -m examples.paper.compare "$OUT/$SPLIT"/*/metrics.json "$heads" --dataset "$(basename "$DATASET")" --split "$SPLIT"
