"""virtsync: Git says which libvirt VMs are on, and the cluster tells what they really do.

    libvirtd ──events──▶ native thread ──uuid──▶ ┌───────────┐            ┌ observe  hypervisor/ (libvirt)
    API server ──watch──▶ kopf ──────────key───▶ │ workqueue │──key──▶ pass│ decide   decide.py   (pure)
    timers: relist, settle, backoff, deadline ─▶ └───────────┘            │ report   kube/store.py (status PATCH)
                                                                          └ act      hypervisor/ (threads of its own)

Two ideas carry everything. Events carry only a name: whoever sees something says `queue.add(key)`, and the pass looks
for itself. The report goes out before the act: it is the record of what is about to be done, and then we look again.

Read in this order:

    model.py       the words: what is wanted, seen, reported, done
    reconcile.py   the pass, and the three protocols that it sees the world through
    decide.py      the policy: one row of a table for every look; with vetoes.py (nothing is done), patience.py (not
                   yet) and stopping.py (politely)
    situation.py   what a look means, in the light of the report before; with causes.py, why a VM stopped
    status.py      from a verdict to the conditions that users read; with codec.py, to and from JSON; words.py makes the
                   words of others harmless
    workqueue.py   a key is never twice in the queue and never in two hands; directory.py: which object is which domain
    pacing.py      the brake and the pace of a node; resync.py: the truth, asked for now and then
    leasing.py     whose the Lease of a node is; kept by kube/lease.py
    hypervisor/    libvirt and nothing else; kube/ the API server and nothing else
    app.py         joins everything; cli.py, settings.py, logs.py, metrics.py, health.py: what an operator sees
"""

__version__ = "0.1.0"
