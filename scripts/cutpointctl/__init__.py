# SPDX-License-Identifier: BSD-3-Clause
"""cutpointctl: snapshots of groups of disks, and looking at them, for people at a terminal and for scripts.

A client: it speaks QMP to a running daemon and the guest agent's protocol to guests, and knows nothing of how either works.

    main        the command line, exit statuses
    errors      what can go wrong, by exit status
    qmp         talking to the daemon
    nodes       which disk is meant; names of overlays
    group       snapshot, check, prepare, hold, cut, abort, groups, transactions
    agent       one guest agent
    freeze      freezing guests around the cut, and thawing them whatever happens
    graph       tree and drawing of the block graph
    job         commit with a progress bar
    output      tables, units, JSON
"""
