# SPDX-License-Identifier: BSD-3-Clause
"""Jobs as their users see them: by events, without ever polling."""
import json
import time


def job_events(d, kind='JOB_STATUS_CHANGE'):
    """Statuses of all jobs in the events that have arrived."""
    return [e['data']['status'] for e in d.qmp.events if e['event'] == kind]


def events_of(d, job):
    """All that the events of a job said so far: a status, or the name of a BLOCK_JOB_* event."""
    result = []
    for e in d.qmp.events:
        if e['event'] == 'JOB_STATUS_CHANGE' and e['data']['id'] == job:
            result.append(e['data']['status'])
        elif e['event'].startswith('BLOCK_JOB_') and job in (e['data'].get('device'), e['data'].get('id')):
            result.append(e['event'])
    return result


def wait_status(d, job, status, timeout=60):
    """Waits for the event that says so; all events stay where they are."""
    deadline = time.monotonic() + timeout
    seen = 0
    while True:
        while seen < len(d.qmp.events):
            e = d.qmp.events[seen]
            seen += 1
            if e['event'] == 'JOB_STATUS_CHANGE' and e['data'] == {'id': job, 'status': status}:
                return
        message = d.qmp.receive(max(0.001, deadline - time.monotonic()))
        assert 'event' in message, f'a reply came where an event was awaited: {json.dumps(message)}'
        d.qmp.events.append(message)


def error_of(d, job):
    """What query-jobs says of a concluded job: None if it succeeded."""
    for info in d.cmd('query-jobs'):
        if info['id'] == job:
            assert info['status'] == 'concluded', info
            return info.get('error')
    raise AssertionError(f'there is no job {job}')


def create(d, options, job='j', dismiss=True):
    """blockdev-create as libvirt does it; the job's error."""
    d.cmd('blockdev-create', {'job-id': job, 'options': options})
    wait_status(d, job, 'concluded')
    error = error_of(d, job)
    if dismiss:
        d.cmd('job-dismiss', id=job)
        d.qmp.events.clear()
    return error
