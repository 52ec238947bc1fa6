#!/usr/bin/env bash
# The whole workflow. It installs everything in .venv on first use, and resumes unfinished runs.
#
#   ./cmd_script.sh        the respiratory workflow on the embedded, simulated recordings:
#                          preprocess, train, calibrate, score, report -> experiments/simulated
#                          (about 5 minutes on two CPU cores, installation included)
#   ./cmd_script.sh nab    the Numenta Anomaly Benchmark: its seven series with known causes, downloaded once
#                          (NAB_ROOT=DIR: use a local copy) -> experiments/realKnownCause
#                          (about 2 minutes, after installation)
#   ./cmd_script.sh grid   a small grid search on the same recordings: 4 configs with 2 seeds each, as many at
#                          once as fit the machine -> experiments/simulated-grid (about 10 minutes)
#   ./cmd_script.sh model  models/cpap_flow, its card and data sheet, from four CPAP nights in ../shared; then the
#                          table of machines that a model has not met, three trainings of each (about 45 minutes)
#   ./cmd_script.sh test   lint check and tests (about 12 minutes on two CPU cores, installation included)
#
# PYTHON=... selects another interpreter than python3 (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '\n== %s\n' "$*"; }

set_up() {  # requirements file
    local stamp=".venv/.installed-${1%.txt}"
    if [ ! -x .venv/bin/python ]; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            { echo "error: Python 3.11 or newer is needed; select one with PYTHON=..." >&2; exit 2; }
        say "creating .venv"
        "${PYTHON:-python3}" -m venv .venv
    fi
    if ! cat requirements*.txt | cmp -s - "$stamp"; then
        say "installing $1"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r "$1"
        cat requirements*.txt > "$stamp"
    fi
}

respiratory() {
    set_up requirements.txt
    say "preprocessing the embedded recordings"
    .venv/bin/python collected_data_preprocess.py
    train_or_resume experiments/simulated pure_lstm_config.json
}

nab() {
    set_up requirements.txt
    say "preprocessing NAB"
    .venv/bin/python data_preprocess_NAB.py ${NAB_ROOT:+--nab-root "$NAB_ROOT"}
    train_or_resume experiments/realKnownCause pure_lstm_config_NAB_fast.json
}

train_or_resume() {  # run folder, config, other arguments of a new run
    if [ -f "$1/config.json" ]; then
        say "resuming $1 (delete it for a new run)"
        .venv/bin/python pure_lstm_anomaly_detection_main.py --resume "$1"
    else
        say "training, scoring, reporting"
        .venv/bin/python pure_lstm_anomaly_detection_main.py --config "$2" --out "$1" "${@:3}"
    fi
}

grid() {
    set_up requirements-grid.txt
    local out=experiments/simulated-grid
    say "preprocessing the embedded recordings"
    .venv/bin/python collected_data_preprocess.py
    if [ -f "$out/grid.json" ]; then
        say "resuming $out (delete it for a new grid)"
        .venv/bin/python grid_search.py --resume "$out" --jobs 0
    else
        say "searching the grid"
        .venv/bin/python grid_search.py --out "$out" --jobs 0 --seeds 2 --set training.epochs=6 \
            --set training.updates_per_epoch=30 --set model.num_layers=1 \
            --set 'grid={"training.learning_rate": [0.001, 0.003], "model.hidden_units": [32, 64]}'
    fi
}

model() {
    set_up requirements.txt
    local python=.venv/bin/python run=experiments/cpap_flow left_out=experiments/leave-one-out
    say "preprocessing four CPAP nights"
    $python collected_data_preprocess.py --dataset cpap_flow
    train_or_resume "$run" pure_lstm_config_cpap.json --dataset cpap_flow
    say "machines that a model has not met"
    $python -m benchmarks.leave_one_out --out "$left_out"
    $python -m reports.model_card "$run" --notes models/cpap_flow.notes.md --tables "$left_out/tables.md" --out models
    $python -m reports.data_sheet datasets/collected-known-anomaly/cpap_flow --out models/cpap_flow.data.md
}

run_tests() {
    set_up requirements-dev.txt
    say "lint"
    .venv/bin/python -m ruff check .
    say "tests"
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "" "$@"
}

case "${1:-respiratory}" in
    respiratory) respiratory ;;
    nab) nab ;;
    grid) grid ;;
    model) model ;;
    test) shift; run_tests "$@" ;;
    *) echo "error: unknown argument '$1'; expected none, or nab, grid, model, test" >&2; exit 2 ;;
esac
