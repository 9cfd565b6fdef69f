"""launch/gke.sh against stand-ins of gcloud and kubectl; its JobSet is read back as YAML."""

import shlex

import pytest
import yaml

TRAIN = ('python', '-m', 'cdd.main', '--config=depth', '--distributed')
WHERE = ('--cluster=cdd', '--zone=us-west4-a', '--project=my-project')
RUN = ('run', '--name=depth', '--image=registry/cdd:1')


def gke(cloud, *words):
  return cloud.run('launch/gke.sh', *words)


def jobset(cloud, *words, command=TRAIN):
  done = gke(cloud, *RUN, *words, '--', *command)
  assert done.code == 0, done
  return yaml.safe_load((cloud.folder / 'manifest.yaml').read_text())


def job(manifest):
  (replicated,) = manifest['spec']['replicatedJobs']
  assert replicated['replicas'] == 1
  return replicated['template']['spec']


@pytest.mark.parametrize(
  ('slice', 'hosts', 'chips', 'accelerator', 'topology'),
  [
    ('v5litepod-16', 4, 4, 'tpu-v5-lite-podslice', '4x4'),
    ('v5p:2x2x2', 2, 4, 'tpu-v5p-slice', '2x2x2'),
    ('v6e-8', 1, 8, 'tpu-v6e-slice', '2x4'),
  ],
)
def test_a_pod_for_each_host_has_its_chips(cloud, slice, hosts, chips, accelerator, topology):
  spec = job(jobset(cloud, f'--type={slice}'))
  assert spec['parallelism'] == spec['completions'] == hosts and spec['backoffLimit'] == 0
  pod = spec['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': accelerator,
    'cloud.google.com/gke-tpu-topology': topology,
  }
  (container,) = pod['containers']
  assert container['resources'] == dict.fromkeys(('requests', 'limits'), {'google.com/tpu': chips})
  assert container['image'] == 'registry/cdd:1' and container['command'] == list(TRAIN)
  assert [volume['name'] for volume in pod['volumes']] == ['memory']
  assert 'metadata' not in spec['template']


def test_several_slices_are_jobs_that_know_of_each_other(cloud):
  manifest = jobset(cloud, '--type=v5p-16', '--slices=3')
  (replicated,) = manifest['spec']['replicatedJobs']
  assert (replicated['name'], replicated['replicas']) == ('slice', 3)
  assert replicated['template']['spec']['parallelism'] == 2
  assert manifest['spec']['coordinator'] == dict(replicatedJob='slice', jobIndex=0, podIndex=0)
  (container,) = replicated['template']['spec']['template']['spec']['containers']
  env = {one['name']: one for one in container['env'] if 'MEGASCALE' in one['name']}
  path = lambda name: env[f'MEGASCALE_{name}']['valueFrom']['fieldRef']['fieldPath']
  assert env['MEGASCALE_NUM_SLICES']['value'] == '3'
  assert path('SLICE_ID') == "metadata.annotations['jobset.sigs.k8s.io/job-index']"
  assert path('COORDINATOR_ADDRESS') == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"
  assert 'coordinator' not in jobset(cloud, '--type=v5p-16')['spec']
  assert gke(cloud, 'cluster', *WHERE, '--type=v5p-16').code == 0
  cloud.forget()
  assert gke(cloud, 'cluster', *WHERE, '--type=v5p-16', '--slices=3').code == 0
  pools = [call[4] for call in cloud.calls() if call[1:4] == ['container', 'node-pools', 'create']]
  assert pools == ['v5p-16-2', 'v5p-16-3']


def test_what_resumes_starts_again_and_what_fails_only_so_often(cloud):
  manifest = jobset(cloud, '--type=v6e-16', '--max_restarts=2', '--grace=600')
  policy = manifest['spec']['failurePolicy']
  assert policy['maxRestarts'] == 2
  assert [(rule['action'], rule['onJobFailureReasons']) for rule in policy['rules']] == [
    ('RestartJobSetAndIgnoreMaxRestarts', ['PodFailurePolicy'])
  ]
  spec = job(manifest)
  preempted, resumes = spec['podFailurePolicy']['rules']
  assert preempted['action'] == resumes['action'] == 'FailJob'
  assert preempted['onPodConditions'] == [dict(type='DisruptionTarget', status='True')]
  assert resumes['onExitCodes'] == dict(containerName='cdd', operator='In', values=[75, 143])
  pod = spec['template']['spec']
  # A pod failure policy needs pods that are not started again where they are.
  assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] == 600


def test_a_bucket_is_mounted_where_tpu_vms_have_it(cloud):
  spec = job(jobset(cloud, '--type=v6e-16', '--bucket=pictures', '--spot'))
  assert spec['template']['metadata']['annotations'] == {'gke-gcsfuse/volumes': 'true'}
  pod = spec['template']['spec']
  (volume,) = [each for each in pod['volumes'] if each['name'] == 'bucket']
  assert volume['csi']['driver'] == 'gcsfuse.csi.storage.gke.io'
  assert volume['csi']['volumeAttributes']['bucketName'] == 'pictures'
  assert 'metadata-cache:ttl-secs:0' in volume['csi']['volumeAttributes']['mountOptions']
  mounts = pod['containers'][0]['volumeMounts']
  assert dict(name='bucket', mountPath='/bucket') in mounts
  assert dict(name='memory', mountPath='/dev/shm') in mounts  # Of processes that read data.
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'


def test_arguments_reach_the_container_as_they_were_typed(cloud):
  odd = [
    'python',
    '$(HOME) $HOME',
    '-c',
    'print("a \\"b\\" \\\\ c")',
    "it's",
    '$HOME',
    ': {x}',
    '',
    'ä',
    '#',
    "'",
  ]
  pod = job(jobset(cloud, '--type=v6e-8', command=odd))['template']['spec']
  # Kubernetes itself makes $ of $$.
  assert [word.replace('$$', '$') for word in pod['containers'][0]['command']] == odd
  assert not any('$(' in word.replace('$$', '') for word in pod['containers'][0]['command'])


def test_a_cluster_has_the_nodes_of_the_slice_and_jobset(cloud):
  words = ('cluster', *WHERE, '--type=v5e:4x4', '--spot', '--bucket=pictures')
  done = gke(cloud, *words)
  assert done.code == 0, done
  lines = [shlex.join(call) for call in cloud.calls()]
  (cluster,) = [line for line in lines if 'clusters create' in line]
  assert '--workload-pool=my-project.svc.id.goog' in cluster and 'GcsFuseCsiDriver' in cluster
  (nodes,) = [line for line in lines if 'node-pools create' in line]
  for word in ('--machine-type=ct5lp-hightpu-4t', '--num-nodes=4', '--tpu-topology=4x4', '--spot'):
    assert word in nodes
  (grant,) = [line for line in lines if 'add-iam-policy-binding' in line]
  assert 'gs://pictures' in grant and 'projects/123456789012/' in grant and 'ns/default/' in grant
  assert any('kubectl apply --server-side' in line and 'jobset' in line for line in lines)
  # Once more, for another slice: the cluster is there.
  cloud.forget()
  done = gke(cloud, 'cluster', *WHERE, '--type=v6e-8')
  assert done.code == 0 and done.said[0] == 'The cluster cdd is there already.', done
  (nodes,) = [shlex.join(call) for call in cloud.calls() if 'create' in call]
  assert 'node-pools create v6e-8' in nodes and '--tpu-topology' not in nodes


def test_a_cluster_is_deleted_and_what_is_left_is_said(cloud):
  gke(cloud, 'cluster', *WHERE, '--type=v6e-8')
  assert gke(cloud, 'delete', *WHERE).said == ['Clusters left in this project: none.']


def test_the_other_commands_ask_kubectl_about_the_jobset(cloud):
  for words in (
    ('status', '--name=depth'),
    ('logs', '--name=depth', '--worker=2', '--lines=5', '--follow'),
    ('stop', '--name=depth'),
    ('image', '--image=registry/cdd:1', '--project=my-project'),
  ):
    assert gke(cloud, *words).code == 0
  lines = [shlex.join(call) for call in cloud.calls()]
  mine = 'jobset.sigs.k8s.io/jobset-name=depth'
  assert lines == [
    'kubectl get jobsets depth',
    f'kubectl get pods --selector={mine} --output=wide',
    f'kubectl logs --selector={mine},batch.kubernetes.io/job-completion-index=2 --container=cdd '
    '--prefix --tail=5 --max-log-requests=64 --follow',
    'kubectl delete jobsets depth',
    f'gcloud builds submit {cloud.root}/launch/.. --config={cloud.root}/launch/cloudbuild.yaml '
    '--substitutions=_IMAGE=registry/cdd:1 --project=my-project --quiet',
  ]


def test_cloud_build_builds_the_dockerfile(cloud):
  build = yaml.safe_load((cloud.root / 'launch' / 'cloudbuild.yaml').read_text())
  (step,) = build['steps']
  assert step['args'] == ['build', '--file=launch/Dockerfile', '--tag=$_IMAGE', '.']
  assert build['images'] == ['$_IMAGE']


def test_dry_run_prints_the_jobset_and_starts_nothing(cloud):
  done = gke(cloud, *RUN, '--type=v6e-8', '--dry_run', '--', *TRAIN)
  first, *lines, last = done.out.splitlines()
  assert (first, last) == ("kubectl create --filename=- <<'YAML'", 'YAML')
  assert yaml.safe_load('\n'.join(lines))['kind'] == 'JobSet'
  dry = gke(cloud, 'cluster', *WHERE, '--type=v6e-8', '--bucket=b', '--dry_run')
  assert dry.code == 0 and 'clusters create cdd' in dry.out and 'kubectl apply' in dry.out
  assert not cloud.calls()


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (('run', '--name=a', '--type=v6e-8'), '--image is needed.'),
    ((*RUN, '--type=v6e-8'), 'The command to run is missing; it follows --.'),
    ((*RUN, '--type=v6e-9', '--', 'ls'), "There is no TPU slice 'v6e-9'"),
    ((*RUN, '--type=v6e-16', '--', 'python', '-m', 'cdd.main'), '4 processes run this command'),
    ((*RUN, '--type=v6e-8', '--grace=long', '--', 'ls'), '--grace=long is not a number.'),
    ((*RUN, '--type=v6e-8', '--slices=2', '--', 'ls'), 'GKE joins slices of several hosts each'),
    ((*RUN, '--type=v6e-16', '--slices=x', '--', 'ls'), '--slices=x is not a number from 1'),
    ((*RUN, '--type=v6e-8', '--', 'a\nb'), 'The command has a line break in it.'),
    (('status', '--nam=a'), 'Unknown flag --nam; choose among --name'),
    (('up',), "Unknown command 'up'; choose among cluster"),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cloud, words, said):
  done = gke(cloud, *words)
  assert done.code == 2 and not cloud.calls(), done
  assert done.err.startswith(f'error: {said}') and done.err.count('\n') == 1
