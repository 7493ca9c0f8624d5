#!/usr/bin/env bash
# two hosts by network namespaces, one rank each; the digest must be that of one process. Skipped without root.
set -u
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 0; }
command -v ip >/dev/null || { echo "skipped: needs iproute2"; exit 0; }
ip netns add ebm0 2>/dev/null || { echo "skipped: no network namespaces"; exit 0; }
ip netns add ebm1
trap 'ip netns del ebm0; ip netns del ebm1' EXIT
ip link add veth0 netns ebm0 type veth peer name veth1 netns ebm1
for n in 0 1; do
  ip -n ebm$n addr add 10.77.0.$((n + 1))/24 dev veth$n
  ip -n ebm$n link set veth$n up
  ip -n ebm$n link set lo up
done
alone=$(python tests/ranks/draws.py)
common="--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29544 --rdzv-id hosts"
GLOO_SOCKET_IFNAME=veth1 ip netns exec ebm1 python -m torch.distributed.run $common --node-rank 1 --rdzv-conf is_host=0 \
  --local-addr 10.77.0.2 tests/ranks/draws.py >/dev/null &
found=$(GLOO_SOCKET_IFNAME=veth0 ip netns exec ebm0 python -m torch.distributed.run $common --node-rank 0 --rdzv-conf is_host=1 \
  --local-addr 10.77.0.1 tests/ranks/draws.py)
wait
echo "one process $alone, two hosts $found"
[ "$alone" = "$found" ]
