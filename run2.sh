#!/bin/bash
cd /work/wt/bench; export UNLEARN_DATA=/work/shared/data; P=/work/main/_build/pool; PY=/work/main/.venv/bin/python
a() { while [ ! -f $P/tuned-salun-0.05.json ]; do sleep 2; done; pkill -f "tune 0.05 finetune"
  $PY benchmarks/pool.py --folder $P unlearn random 0.05 0-7 msg salun scrub > $P/un-a.log 2>&1; }
b() { while [ ! -f $P/tuned-random_labels-0.05.json ]; do sleep 2; done; pkill -f "tune 0.05 neggrad_plus"
  $PY benchmarks/pool.py --folder $P unlearn random 0.05 0-7 finetune neggrad_plus random_labels > $P/un-b.log 2>&1
  $PY benchmarks/pool.py --folder $P retrain random 0 1 > $P/re.log 2>&1; }
a & b & wait
