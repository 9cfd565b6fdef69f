"""launch/tpu.sh against a stand-in of gcloud, whose hosts really run what they are told to run."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

CREATE = 'gcloud compute tpus queued-resources create depth --node-id=depth'
COMMAND = ('python', '-m', 'cdd.main', '--config=depth')
TRAIN = (*COMMAND, '--workdir=/bucket/runs/a b', '--distributed')


def wait_for(condition, seconds=90):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def started(cloud):
  """The command lines that hosts ran as `python -m ...`."""
  return [call[1:] for call in cloud.calls('python') if call[1] == '-m']


def test_create_waits_through_the_queue_and_says_each_state_once(cloud):
  cloud.write('queue', 'WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING')
  done = cloud.tpu('create', '--type=v5e:4x4', '--spot', '--zone=us-west4-a', '--interval=7')
  assert done.code == 0, done
  states = ('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
  assert done.said == [f'depth is {state}.' for state in states]
  (made,) = [call for call in cloud.calls() if 'create' in call]
  assert shlex.join(made) == (
    f'{CREATE} --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot '
    '--quiet --zone=us-west4-a'
  )
  assert cloud.calls('sleep') == [['sleep', '7']] * 3


def test_create_again_changes_nothing_and_refuses_another_type(cloud):
  cloud.tpu('create', '--type=v5p-16')
  cloud.forget()
  again = cloud.tpu('create', '--type=v5p-16')
  assert again.code == 0 and again.said[0] == 'depth is there already.'
  other = cloud.tpu('create', '--type=v6e-8')
  assert other.code == 1
  assert other.err == 'error: depth is there, but it is a v5p-16, not a v6e-8.\n'
  assert not [call for call in cloud.calls() if 'create' in call]


def test_create_names_why_a_request_failed(cloud):
  cloud.write('queue', 'WAITING_FOR_RESOURCES FAILED')
  cloud.write('reason', 'There is no capacity in the zone.')
  done = cloud.tpu('create', '--type=v5p-16')
  assert done.code == 1 and done.err == 'error: depth: There is no capacity in the zone.\n'
  again = cloud.tpu('create', '--type=v5p-16')
  assert again.code == 1 and 'FAILED; delete it first' in again.err, again
  assert again.err.endswith('There is no capacity in the zone.\n')


def test_create_stops_waiting_and_warns_that_the_request_goes_on(cloud):
  cloud.write('queue', ' '.join(['WAITING_FOR_RESOURCES'] * 9))
  done = cloud.tpu('create', '--type=v5p-16', '--wait=0')
  assert done.code == 1 and 'costs money once it is ACTIVE' in done.err
  assert cloud.tpu('create', '--type=v5p-16').code == 0


def test_setup_copies_what_git_does_not_ignore_and_counts_the_chips(cloud):
  cloud.tpu('create', '--type=v5p-16')
  (cloud.root / 'mine.py').write_text('not committed')
  (cloud.root / 'runs').mkdir()
  (cloud.root / 'runs' / 'large').write_text('ignored')
  (cloud.root / 'launch' / 'cloudbuild.yaml').unlink()
  cloud.forget()
  done = cloud.tpu('setup', '--bucket=pictures')
  assert done.code == 0, done
  assert done.said[-1] == 'jax 0.10.2 finds 8 tpu devices on 2 hosts.'
  for number in range(2):
    checkout = cloud.home_of(number) / 'cdd'
    there = {str(p.relative_to(checkout)) for p in checkout.rglob('*') if p.is_file()}
    assert {'mine.py', 'launch/worker.sh', 'COMMIT'} <= there
    assert not there & {'runs/large', 'launch/cloudbuild.yaml'}
    assert (cloud.home_of(number) / 'mounted').read_text() == 'pictures'
  installs = [call for call in cloud.calls('uv') if call[1] == 'pip']
  home = cloud.home_of(0)
  assert installs[0][-1] in (f'{cloud.home_of(n)}/cdd[tpu,gcs]' for n in range(2))
  # Set up once more, it neither mounts again nor makes the environment anew.
  cloud.forget()
  assert cloud.tpu('setup', '--bucket=pictures').code == 0
  assert not cloud.calls('gcsfuse') and not [c for c in cloud.calls('uv') if c[1] == 'venv']
  other = cloud.tpu('setup', '--bucket=others')
  assert other.code == 1 and '/bucket is the bucket pictures, not others.' in other.err
  assert home.exists()


def test_setup_fails_if_a_chip_is_missing(cloud):
  cloud.tpu('create', '--type=v5p-16')
  cloud.write('seen', '7')
  done = cloud.tpu('setup')
  assert done.code == 1
  assert 'error: jax 0.10.2 finds 7 tpu devices on 2 hosts, not 8 on 2.' in done.err


def test_arguments_reach_every_host_as_they_were_typed(cloud):
  cloud.ready()
  odd = ['two words', "it's", '"$HOME" `id` $(id)', 'a\\b', '*', '', 'ä', '#', '&;|<>']
  assert cloud.tpu('run', '--', 'python', '-m', 'x', *odd).code == 0
  wait_for(lambda: len(started(cloud)) == 2)
  assert started(cloud) == [['-m', 'x', *odd]] * 2


def test_a_run_outlives_its_connection_and_a_second_one_is_refused(cloud):
  cloud.ready()
  cloud.write('train', '#!/bin/sh\necho step 1\necho oh >&2\nsleep 60')
  began = time.monotonic()
  done = cloud.tpu('run', '--', *TRAIN)
  assert done.code == 0 and time.monotonic() - began < 30, done
  assert done.said == [f'Started on all hosts: {shlex.join(TRAIN)}']
  for action in (('run', '--', *TRAIN), ('setup',)):
    refused = cloud.tpu(*action)
    assert refused.code == 1 and ('A command runs' in refused.err), refused
  status = cloud.tpu('status')
  assert status.said[:2] == ['w-0: running, exit code -', 'w-1: running, exit code -']
  assert status.said[2] == 'depth, v5p-16, 2 hosts: running'
  wait_for(lambda: 'oh' in cloud.tpu('logs', '--worker=1').out)
  log = cloud.tpu('logs', '--worker=all').out.splitlines()
  assert {'w-0  step 1', 'w-1  step 1', 'w-0  oh', 'w-1  oh'} <= set(log)
  assert len(started(cloud)) == 2


def test_stop_has_every_host_save_and_the_code_says_that_it_resumes(cloud):
  cloud.ready()
  cloud.write(
    'train',
    "#!/bin/bash\ntrap 'echo saved; exit 75' TERM\n"
    'touch "$STANDIN/listens_$HOST"\nsleep 60 &\nwait\n',
  )
  cloud.tpu('run', '--', *TRAIN)
  wait_for(lambda: len(list(cloud.folder.glob('listens_*'))) == 2)
  done = cloud.tpu('stop')
  assert done.code == 0, done
  assert sorted(done.said) == [f'state=stopped code=75 host=w-{n}' for n in range(2)]
  assert cloud.tpu('status').said[-1] == 'depth, v5p-16, 2 hosts: stopped'
  assert 'saved' in cloud.tpu('logs').out
  done = cloud.tpu('logs', f'--to={cloud.folder}/logs')
  assert done.code == 0, done
  for number in range(2):
    text = (cloud.folder / 'logs' / f'worker_{number}.txt').read_text()
    assert 'saved' in text and text.rstrip().endswith('ended with exit code 75')


def test_logs_follow_what_is_added_until_they_are_interrupted(cloud):
  cloud.ready()
  cloud.write(
    'train',
    '#!/bin/sh\necho first\nwhile [ ! -e "$STANDIN/go" ]; do sleep 0.1; done\necho second\n',
  )
  cloud.tpu('run', '--', *TRAIN)
  with subprocess.Popen(
    ['bash', 'launch/tpu.sh', 'logs', '--name=depth', '--follow', '--worker=1'],
    cwd=cloud.root,
    env=cloud.environment(),
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as follower:
    lines = iter(follower.stdout.readline, '')
    assert any(line == 'w-1  first\n' for line in lines)
    cloud.write('go', '')
    assert any(line == 'w-1  second\n' for line in lines)
    os.killpg(follower.pid, signal.SIGINT)


@pytest.mark.parametrize(
  ('codes', 'word'),
  [('0 0', 'finished'), ('75 75', 'stopped'), ('143 75', 'stopped'), ('1 75', 'failed')],
)
def test_exit_codes_of_all_hosts_become_one_word(cloud, codes, word):
  cloud.ready()
  cloud.write('train', f'#!/bin/bash\ncodes=({codes})\nexit ${{codes[${{HOST#w-}}]}}\n')
  assert cloud.tpu('status').said[-1].endswith(': none')
  cloud.tpu('run', '--', *TRAIN)
  wait_for(lambda: cloud.tpu('status').said[-1].endswith(f': {word}'))


def test_a_process_that_is_gone_without_an_exit_code_is_lost(cloud):
  cloud.ready()
  cloud.write('train', '#!/bin/sh\nsleep 60')
  cloud.tpu('run', '--', *TRAIN)
  pids = [cloud.home_of(0) / 'cdd-run' / name for name in ('pid', 'child')]
  wait_for(lambda: all(path.exists() for path in pids))
  # As after a restart of the host: the number may be another process's by then.
  pids[0].write_text(pids[0].read_text().split()[0] + ' another-boot\n')
  assert cloud.tpu('status').said[0] in ('w-0: lost, exit code -', 'w-1: running, exit code -')
  assert 'w-0: lost, exit code -' in cloud.tpu('status').said
  subprocess.run(['kill', pids[1].read_text().split()[0]])


def test_watch_begins_again_after_a_preemption_and_deletes_at_the_end(cloud):
  # The first life is preempted while it trains, the second one finishes.
  cloud.write(
    'train',
    '#!/bin/sh\n[ "$HOST" = w-0 ] || exit 0\n'
    'if [ -e "$STANDIN/second" ]; then exit 0; fi\n'
    'touch "$STANDIN/second" "$STANDIN/slice/taken"\nsleep 60\n',
  )
  words = ('--type=v5p-16', '--spot', '--bucket=pictures', '--delete_when_done')
  done = cloud.tpu('watch', *words, '--', *TRAIN)
  assert done.code == 0, done
  kept = [line for line in done.said if line.startswith(('depth:', 'Finished', 'No TPU'))]
  kept = [line for line in kept if line != 'depth: running']
  assert kept == [
    'depth: NONE',
    'depth: taken',
    'depth: finished',
    'Finished; begun again 1 times.',
    'No TPU is left in this zone, and no bucket in this project.',
  ], done.out
  changes = [c[4] for c in cloud.calls('gcloud') if c[3] == 'queued-resources']
  assert [verb for verb in changes if verb in ('create', 'delete')] == ['create', 'delete'] * 2
  assert started(cloud) == [list(TRAIN[1:])] * 4


def test_several_slices_are_one_request_and_train_together(cloud):
  words = ('--type=v5p-16', '--slices=2', '--bucket=pictures')
  cloud.write('train', '#!/bin/sh\necho step 1\n')
  done = cloud.tpu('watch', *words, '--', *TRAIN)
  assert done.code == 0, done
  assert 'jax 0.10.2 finds 16 tpu devices on 4 hosts of 2 slices.' in done.said
  (made,) = [shlex.join(call) for call in cloud.calls() if 'create' in call]
  assert '--node-count=2 --node-prefix=depth --accelerator-type=v5p-16' in made
  assert '--node-id' not in made and len(started(cloud)) == 4
  assert cloud.tpu('status').said[-1] == 'depth, 2 slices of v5p-16, 4 hosts: finished'
  cloud.forget()
  assert 'w-3  step 1\n' in cloud.tpu('logs', '--worker=3').out
  assert {'--node=1', '--worker=1'} <= set(cloud.calls('gcloud')[-1])
  assert cloud.tpu('logs', f'--to={cloud.folder}/logs').code == 0
  assert len(list((cloud.folder / 'logs').iterdir())) == 4
  other = cloud.tpu('create', '--type=v5p-16')
  assert other.err == 'error: depth is there, but it is 2 slices of v5p-16, not a v5p-16.\n'
  dry = cloud.tpu('watch', *words, '--dry_run', '--', *TRAIN)
  assert 'queued-resources ssh depth --node=all --worker=all' in dry.out
  assert 'tpu-vm describe depth-1' in dry.out and 'tpu-vm ssh' not in dry.out, dry


def test_watch_joins_a_run_that_is_there_and_starts_it_again_when_it_was_stopped(cloud):
  cloud.ready()
  cloud.write(
    'train', '#!/bin/sh\n[ -e "$STANDIN/on_$HOST" ] && exit 0\ntouch "$STANDIN/on_$HOST"; exit 75\n'
  )
  assert cloud.tpu('run', '--', *TRAIN).code == 0
  done = cloud.tpu('watch', '--type=v5p-16', '--', *TRAIN)
  assert done.code == 0 and 'Finished; begun again 1 times.' in done.said, done
  assert done.said[-1] == 'depth is still there and costs money: launch/tpu.sh delete --name=depth'
  assert not [c for c in cloud.calls('gcloud') if {'create', 'delete', 'scp'} & set(c)]
  assert len(started(cloud)) == 4


def test_watch_neither_takes_another_command_for_its_own_nor_disturbs_it(cloud):
  cloud.ready()
  cloud.tpu('run', '--', 'python', '-m', 'cdd.prepare', '--distributed')
  wait_for(lambda: cloud.tpu('status').said[-1].endswith(': finished'))
  done = cloud.tpu('watch', '--type=v5p-16', '--', *TRAIN)
  assert done.code == 0 and 'depth: none' in done.said, done
  assert started(cloud)[2:] == [list(TRAIN[1:])] * 2
  cloud.write('train', '#!/bin/sh\nsleep 60')
  cloud.tpu('run', '--', *TRAIN, '--seed=2')
  done = cloud.tpu('watch', '--type=v5p-16', '--', *TRAIN)
  assert done.code == 1 and 'Another command runs there' in done.err, done


def test_watch_ends_with_the_last_lines_of_a_command_that_fails(cloud):
  cloud.write('train', '#!/bin/sh\necho "error: Unknown sampler"\nexit 1\n')
  done = cloud.tpu('watch', '--type=v5p-16', '--', *TRAIN)
  assert done.code == 1 and 'The command failed' in done.err
  assert 'w-1  error: Unknown sampler' in done.out
  assert len(started(cloud)) == 2


def test_watch_gives_up_after_as_many_restarts_as_it_may(cloud):
  cloud.write('train', '#!/bin/sh\nexit 75\n')
  done = cloud.tpu('watch', '--type=v6e-8', '--max_restarts=2', '--', *TRAIN)
  assert done.code == 1 and 'It began again 2 times.' in done.err
  assert len(started(cloud)) == 3


def test_watch_ends_at_once_if_the_first_slice_cannot_be_had(cloud):
  cloud.write('refused', 'RESOURCE_EXHAUSTED: Quota limit TPUS has been exceeded')
  done = cloud.tpu('watch', '--type=v6e-8', '--', *TRAIN)
  assert done.code == 1 and 'Quota limit' in done.err
  assert len([c for c in cloud.calls() if 'create' in c]) == 1


def test_watch_outlasts_a_network_that_is_gone_for_a_while(cloud):
  cloud.ready('v6e-8')
  cloud.write('train', '#!/bin/sh\nexit 0\n')
  cloud.tpu('run', '--', *TRAIN)
  cloud.write('offline', 'yes')
  (cloud.folder / 'bin' / 'sleep').write_text(
    '#!/bin/sh\necho x >> "$STANDIN/naps"\n'
    '[ "$(wc -l < "$STANDIN/naps")" -lt 3 ] || rm -f "$STANDIN/offline"\n'
  )
  done = cloud.tpu('watch', '--type=v6e-8', '--', *TRAIN)
  assert done.code == 0 and 'there is no network' in done.err, done
  assert [line for line in done.said if line.startswith('depth:')] == [
    'depth: UNKNOWN',
    'depth: finished',
  ]


def test_delete_leaves_nothing_and_says_what_is_left(cloud):
  cloud.ready()
  (cloud.folder / 'buckets' / 'pictures').mkdir(parents=True)
  done = cloud.tpu('delete')
  assert done.code == 0 and not (cloud.folder / 'slice').exists(), done
  assert done.said[-1] == '  gs://pictures/'
  done = cloud.tpu('delete', '--bucket=pictures')
  assert done.said == [
    'There is no depth here.',
    'No TPU is left in this zone, and no bucket in this project.',
  ]
  cloud.write('offline', 'yes')
  done = cloud.tpu('delete')
  assert done.code == 1 and 'gcloud does not say' in done.err


def test_dry_run_prints_the_commands_and_runs_none_of_them(cloud):
  words = ('--type=v5p-16', '--spot', '--bucket=pictures', '--zone=z', '--delete_when_done')
  dry = cloud.tpu('watch', *words, '--dry_run', '--', *TRAIN)
  assert dry.code == 0 and not cloud.calls(), dry
  lines = [line.partition('  # say')[0] for line in dry.out.splitlines() if line[0] != '#']
  printed = [shlex.split(line) for line in lines]
  assert cloud.tpu('watch', *words, '--', *TRAIN).code == 0
  changing = lambda calls: [
    call for call in calls if {'create', 'delete', 'ssh'} & set(call) and 'status' not in str(call)
  ]
  assert changing(printed) == changing(cloud.calls('gcloud'))


def test_the_key_of_ssh_is_given_to_an_agent_that_runs(cloud):
  cloud.tpu('create', '--type=v5p-16')
  (cloud.home / '.ssh' / 'google_compute_engine').touch()
  assert cloud.tpu('setup').code == 0 and not cloud.calls('ssh-add')
  assert cloud.tpu('setup', SSH_AUTH_SOCK='/agent').code == 0
  assert cloud.calls('ssh-add') == [['ssh-add', '-q', f'{cloud.home}/.ssh/google_compute_engine']]


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    ((), "Unknown command ''; choose among create"),
    (('creat', '--name=a'), "Unknown command 'creat'; choose among create"),
    (('create', '--type=v6e-8'), '--name is needed.'),
    (('create', '--name=a'), '--type is needed.'),
    (('create', '--name'), '--name needs a value.'),
    (('create', '--name', '--spot'), '--name needs a value.'),
    (('create', '--name='), '--name needs a value.'),
    (('create', '--name=a', '--spot=1'), '--spot takes no value.'),
    (('create', '--name=a', '--sport'), 'Unknown flag --sport; choose among --name --zone'),
    (('create', '--name=a', 'v6e-8'), "Unexpected argument 'v6e-8'"),
    (('create', '--name=a', '--type=v9'), "There is no TPU slice 'v9' in launch/accelerators.txt"),
    (('create', '--name=a', '--type=v6e-8', '--wait=long'), '--wait=long is not a number.'),
    (('create', '--name=a', '--type=v6e-8', '--slices=0'), '--slices=0 is not a number from 1'),
    (('run', '--name=a'), 'The command to run is missing; it follows --.'),
    (('status', '--name=a', '--', 'ls'), 'status runs no command, but one follows --.'),
    (
      ('watch', '--name=a', '--type=v6e-16', '--', 'python', '-m', 'cdd.main'),
      '4 processes run this command: add --distributed to it, which joins them.',
    ),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cloud, words, said):
  done = cloud.run('launch/tpu.sh', *words)
  assert done.code == 2 and not cloud.calls(), done
  assert done.err.startswith(f'error: {said}') and done.err.count('\n') == 1


def test_names_and_values_may_be_written_in_gclouds_way(cloud):
  done = cloud.tpu('create', '--type', 'v5e-16', '--service-account', 'a@b', '--dry-run')
  assert '--accelerator-type=v5litepod-16' in done.out and '--service-account=a@b' in done.out


def test_what_is_not_there_is_said_in_one_line(cloud):
  for words in (('setup',), ('run', '--', 'ls'), ('status',)):
    done = cloud.tpu(*words)
    assert done.code == 1, done
    assert done.err.splitlines()[-1].startswith(
      'error: There is no depth here: launch/tpu.sh create'
    )
  cloud.tpu('create', '--type=v5p-16')
  done = cloud.tpu('run', '--', 'ls')
  assert done.code == 1 and 'The hosts are not set up' in done.err
  assert json.dumps(cloud.calls('python')) == '[]'
