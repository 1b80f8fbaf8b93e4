#!/bin/bash
# after the pool: tuning in two halves, then unlearning; one thread each
cd /work/wt/bench; export UNLEARN_DATA=/work/shared/data; P=/work/main/_build/pool; PY=/work/main/.venv/bin/python
while pgrep -f "pool.py --folder $P train" >/dev/null; do sleep 5; done
X="finetune scrub msg salun ssd delete"; Y="neggrad_plus random_labels bad_teacher kde munba l1_sparse"
$PY benchmarks/pool.py --folder $P tune 0.05 $X > $P/tune-a.log 2>&1 &
$PY benchmarks/pool.py --folder $P tune 0.05 $Y > $P/tune-b.log 2>&1 &
wait
$PY benchmarks/pool.py --folder $P unlearn random 0.05 0-7 $X > $P/un-a.log 2>&1 &
$PY benchmarks/pool.py --folder $P unlearn random 0.05 0-7 $Y > $P/un-b.log 2>&1 &
wait
