"""virtsync keeps libvirt VMs in the power state that Git declares, and reports to the cluster what they really do.

    libvirtd ──events──▶ event thread ──uuid────▶ ┌────────────┐              ┌ observe  hypervisor/ (libvirt)
    API server ──watch──▶ kopf ──key────────────▶ │ work queue │──key──▶ pass ┤ decide   policy/     (pure)
    timers: relist, settle, backoff, deadline ──▶ └────────────┘              │ report   kube/store.py (status PATCH)
                                                                              └ act      agent/acting.py (own threads)

Two rules shape the code. An event carries only a key: every source of events calls `queue.add(key)`, and the reconcile
pass then observes the VM itself. The pass writes the report before the action, as a write-ahead record of the action,
and after the action the VM is observed again.

docs/architecture.md describes the threads, the connections, the life of one event, and how to add a state, an action, a
setting or a reason. The packages, from the top layer to the bottom layer; each may import those on lower layers:

    cli/           the command line
      program.py     how each command begins and ends: standard streams, error messages, exit codes
      agent.py, manager.py  virtsync agent, virtsync manager; process.py: how both run; options.py: their options from
                     the settings
      import_.py     virtsync import; manifest_folder.py: the files in a folder; namespace_rules.py: the file of rules
      check.py       says what an agent needs on its host and in the cluster, and whether it is there
      enroll.py      virtsync enroll: the identity of a host that is not a node
      plugin.py      kubectl virtsync, which has the commands of virtsync vm
      vm/            virtsync vm: a module for each command; cluster.py: the options of kubectl; selection.py: which
                     VMs; output.py: prints; views/: what people see, pure; changing.py: changes objects, and waits;
                     chosen.py: the VMs that a command changes; screen.py, keys.py: the terminal of top;
                     completion.py: what can follow on a command line; forwarding.py: kubectl port-forward
    agent/         the process of a node
      app.py         wires all parts together; settings.py: the settings
      reconcile.py   one reconcile pass, and the protocols of what it needs; memories.py: in-process state of each VM;
                     lookups.py: lookups that libvirt does not answer
      acting.py      actions in flight, each on its own thread
      brake.py       the brake of the node, shared by threads
      domain_index.py  which objects name which domain
      relist.py      the periodic relists of libvirt and of the API server
      ownership.py   whether this agent may act: the host lock and the Lease
      host_report.py  reads and reports the Hypervisor of the node; host_spec.py: what the agent obeys
      renewal.py     renews the token of a host that is not a node
      outage.py      what to do while the API server does not answer, and afterwards
      node_conflict.py  another machine under the name of this node
      metrics.py     the metrics for Prometheus
    manager/       the process of the cluster; it switches no VM
      app.py         wires all parts together; settings.py: the settings; metrics.py: the metrics
      leader.py      whether this manager leads: only the leader may write
      monitor.py     lists the agents' Leases, and finds silent nodes; marker.py: marks their objects
      page.py        serves the page; page_source.py: watches what it shows while somebody looks
      sweep.py       lists all VMs for what no agent reports; elsewhere.py: keeps the lists of VMs that run elsewhere
    page/          the page of the manager, from objects to HTML
      rows.py        what it keeps of each VM and host; query.py: what a person has chosen; view.py: what one page shows
      document.py    the whole document; parts.py: its rows and regions; messages.py: what an open page is told;
                     markup.py: HTML without holes; assets/: style and script
    kube/          the adapter for the API server
      client.py      the one HTTP client; access.py: address and credentials; kubeconfig.py, proxies.py: where they come
                     from; credentials.py: reloads them; user_kubeconfig.py: the kubeconfig of a person
      store.py       the cache of this node's objects; writes their status
      hypervisors.py  the Hypervisor of this node
      watch.py       the watch (kopf); watched.py: what is watched; watch_health.py: whether it works
      skipping.py    removes what is known from what kopf reads; echoes.py: which events are this agent's own writes
      lease.py       keeps a Lease: the Lease of a node, or of the leader; lease_fields.py: reads one
      reads.py       the requests of virtsync vm; writes.py: its changes; live.py: its watch
      lists.py       the manager's requests: lists of Leases, VMs and Hypervisors, and their status patches
      checks/        what virtsync check asks the API server: server.py, schema.py, access.py, lease.py; probe.py: the
                     requests; rights.py: the rights of an agent
      events.py      writes Kubernetes Events
      hosts/         hosts that are not nodes: enrollment.py: their objects; token.py: what is in a token;
                     kubeconfig.py: how it reaches the host
      collection.py  reads whole collections; paths.py: the paths of objects; manifests.py: manifests as YAML
    hypervisor/    the adapter for libvirt
      connection.py  connects and reconnects; pool.py: connection pools with one call at a time per connection;
                     event_loop.py: libvirt's event loop; events.py: libvirt's events
      host.py        observes, lists and switches domains; handles.py: the handles of domains; states.py, text.py:
                     libvirt's numbers and texts
      listing.py     lists the domains of a host once
      host_lock.py   the lock of the agent that acts on a libvirt
      host_uuid.py   libvirt's UUID of the machine; host_facts.py: its size, and versions
      pidfiles.py    the lock that shows that a QEMU is alive; remembered.py: the limit of what is remembered of domains
      checks.py      checks of what an agent needs from its host; selinux.py
    runtime/       parts of any controller, which know no VM
      workqueue.py   the work queue: a key is never queued twice, and never processed by two workers at a time
      workers.py     the threads that process keys; periodic.py: a thread for a periodic task
      retry.py       retries and exponential backoff; buckets.py: rate limits; errors.py: the kinds of failure
      checks.py      runs checks, each on its own thread and with a timeout
      web.py         an HTTP server on localhost for a browser
      health.py, metrics.py, logs.py  /livez, /readyz and /metrics; series of the queue; the log
      exposition.py  the text of /metrics, which one thread at a time makes
      watchdog.py    tells systemd that the process works
      settings.py    the settings that every process has
    policy/        decisions on immutable values
      decide.py      the decision table: one row for each observation; vetoes.py: rows without an action; gates.py: what
                     delays a due action; stopping.py: the steps of a graceful stop; wording.py: parts of messages
      situation.py   what an observation means, given the last report; assess.py: how it is derived; handover.py: from
                     another node's report; starts.py, stops.py: recorded starts, causes of stops; operations.py: stops
                     and restarts in flight; settling.py: settle times; backoff.py: failures
      conclusion.py  from a verdict to status, conditions and Events
      brake.py, start_limiter.py  the brake and the rate limit for starts of one node
      leases.py      whether a process may take a Lease
      renewal.py     when a token is renewed
      view.py, waits.py  the inputs and the result of a decision
    fleet/         decisions about many nodes
      inventory.py   which domains a host has, and which of them no object refers to
      host_status.py  the report on a host
      import_plan.py  which objects import writes; import_manifest.py: what is in such an object
      silence.py     which agents are silent; mass.py: how many together; census.py: which nodes there should be
      marking.py     which objects of a silent node are marked, and how
      elsewhere.py   which VMs run on another node than their own; findings.py: what a list of all VMs shows
    presentation/  what people are told about VMs and hosts
      vms.py         whether a VM is as wanted, and what its reason means; hosts.py: what to know about a host
      words.py       durations, times and foreign texts
    api/           the contract with users
      virtualmachine.py, hypervisor.py  spec and status as values; conditions.py: what each reason means; names.py,
                     libvirt_words.py
      codec.py, hypervisor_codec.py  the objects from JSON, their status to JSON; json_mapping.py: dataclasses to and
                     from JSON; spec_reader.py: what a spec means, or that it is not understood; merge_patch.py;
                     tables.py: the rows of a Table
      owners.py      whether Git owns a field; changes.py: the patches that users request; progress.py: how far they are
      notice.py      an Event that is about to be written
      text.py        sanitizes foreign text; values.py, clock.py, setting.py: helpers

The packages of one layer do not import each other: agent/ and manager/; kube/ and hypervisor/; runtime/, policy/,
fleet/ and presentation/.
"""

__version__ = "0.1.0"
