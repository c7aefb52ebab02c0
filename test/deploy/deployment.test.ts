// What deploys the service fits the service: its settings, ports, probes, and the time it needs to end.

import { execFile } from 'node:child_process'
import { access, readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseEnv, promisify } from 'node:util'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { parseConfig, SettingsSchema } from '../../src/config.js'
import { testDatabase } from '../helpers/database.js'
import { freePort } from '../helpers/postgres.js'
import { startReplica } from '../helpers/replica.js'

const run = promisify(execFile)
const ROOT = fileURLToPath(new URL('../../', import.meta.url))
/** Kept between the longest shutdown and being killed. */
const MARGIN_MS = 5_000

type Strings = Record<string, string>

async function read(path: string): Promise<string> {
  return readFile(ROOT + path, 'utf8')
}

async function readYaml<T>(path: string): Promise<T> {
  return parse(await read(path), { merge: true }) as T
}

/** What the image sets; NODE_ENV is for the libraries. */
async function imageEnv(): Promise<Strings> {
  const { NODE_ENV: _, ...env } = parseEnv((await instructions('ENV')).join(' ').replaceAll(' ', '\n'))
  return env as Strings
}

/** The rest of each line of the Dockerfile that begins with that word, in all stages. */
async function instructions(word: string): Promise<string[]> {
  const lines = (await read('Dockerfile')).replaceAll('\\\n', '').split('\n')
  return lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))
}

function strings(env: Record<string, string | number>): Strings {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, String(value)]))
}

function areSettings(t: Test, env: object): void {
  for (const name of Object.keys(env)) t.ok(name in SettingsSchema.properties, `${name} is a setting`)
}

/** The environment with a value of its own for every secret that is left to be filled in. */
function filledIn(secrets: Strings): Strings {
  return Object.fromEntries(
    Object.keys(secrets).map((name) => [
      name,
      name === 'DATABASE_URL' ? 'postgres://user:password@host/database' : `${name}-of-24-characters`,
    ]),
  )
}

/** Whether the service has a route for GET there. */
async function routes(t: Test): Promise<(path: string) => boolean> {
  const { url } = await testDatabase(t)
  const { app } = await startReplica(t, url)
  return (path) => app.hasRoute({ method: 'GET', url: path })
}

interface Probe {
  httpGet: { path: string; port: string }
}

interface Deployment {
  spec: {
    selector: { matchLabels: Strings }
    template: {
      metadata: { labels: Strings }
      spec: {
        terminationGracePeriodSeconds: number
        automountServiceAccountToken: boolean
        securityContext: Record<string, unknown>
        topologySpreadConstraints: { labelSelector: { matchLabels: Strings } }[]
        containers: {
          image: string
          env: { name: string; value: string }[]
          envFrom: { secretRef: { name: string } }[]
          ports: { name: string; containerPort: number }[]
          lifecycle: { preStop: { sleep: { seconds: number } } }
          startupProbe: Probe
          livenessProbe: Probe
          readinessProbe: Probe
          securityContext: Record<string, unknown>
        }[]
      }
    }
  }
}

async function deployment() {
  const { spec } = await readYaml<Deployment>('deploy/kubernetes/deployment.yaml')
  const pod = spec.template.spec
  const [container] = pod.containers
  if (!container) throw new Error('no container')
  const env = Object.fromEntries(container.env.map(({ name, value }) => [name, value]))
  return { spec, pod, container, env }
}

async function secretExample() {
  return readYaml<{ metadata: { name: string }; stringData: Strings }>(
    'deploy/kubernetes/secret.example.yaml',
  )
}

t.test('in Kubernetes a replica starts with the secrets filled in, and not before', async (t) => {
  const { env, container } = await deployment()
  const { metadata, stringData } = await secretExample()
  t.strictSame(container.envFrom, [{ secretRef: { name: metadata.name } }])
  t.throws(
    () => parseConfig({ ...env, ...stringData }),
    /HOST: invalid value "::": expected a loopback address/,
  )
  areSettings(t, { ...env, ...stringData })
  const config = parseConfig({ ...env, ...filledIn(stringData) })
  t.equal(config.HOST, '::')
  t.equal(container.ports[0]?.containerPort, config.PORT)
})

t.test('Kubernetes gives a pod the time to end', async (t) => {
  const { pod, container, env } = await deployment()
  const { seconds } = container.lifecycle.preStop.sleep
  const { SHUTDOWN_TIMEOUT_MS } = parseConfig({ ...env, HOST: '127.0.0.1' })
  t.ok(pod.terminationGracePeriodSeconds * 1000 >= seconds * 1000 + SHUTDOWN_TIMEOUT_MS + MARGIN_MS)
})

t.test('its probes ask for what there is, at a port that has a name', async (t) => {
  const { container } = await deployment()
  const exists = await routes(t)
  const ports = container.ports.map(({ name }) => name)
  const { startupProbe, livenessProbe, readinessProbe } = container
  for (const { httpGet } of [startupProbe, livenessProbe, readinessProbe]) {
    t.ok(exists(httpGet.path), httpGet.path)
    t.ok(ports.includes(httpGet.port))
  }
  t.equal(livenessProbe.httpGet.path, '/-/healthy', 'an outage of the database kills no replica')
  t.equal(readinessProbe.httpGet.path, '/-/ready')
})

t.test('its objects find their pods, and all but the example of a secret are applied', async (t) => {
  const { spec, pod, container } = await deployment()
  const { labels } = spec.template.metadata
  const service = await readYaml<{ spec: { selector: Strings; ports: { targetPort: string }[] } }>(
    'deploy/kubernetes/service.yaml',
  )
  const budget = await readYaml<{ spec: { selector: { matchLabels: Strings } } }>(
    'deploy/kubernetes/poddisruptionbudget.yaml',
  )
  for (const selector of [
    spec.selector.matchLabels,
    service.spec.selector,
    budget.spec.selector.matchLabels,
    ...pod.topologySpreadConstraints.map(({ labelSelector }) => labelSelector.matchLabels),
  ])
    t.strictSame(selector, labels)
  t.equal(service.spec.ports[0]?.targetPort, container.ports[0]?.name)

  const { resources, images } = await readYaml<{ resources: string[]; images: { name: string }[] }>(
    'deploy/kubernetes/kustomization.yaml',
  )
  const files = await readdir(`${ROOT}deploy/kubernetes`)
  t.strictSame(
    resources.toSorted(),
    files.filter((name) => name !== 'kustomization.yaml' && !name.includes('example')).toSorted(),
  )
  t.equal(images[0]?.name, container.image)
})

t.test('a pod may do no more than it needs', async (t) => {
  const { pod, container } = await deployment()
  t.equal(pod.automountServiceAccountToken, false)
  t.strictSame(pod.securityContext, { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } })
  t.strictSame(container.securityContext, {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  })
})

t.test('the image starts with credentials alone, and knows when it is healthy', async (t) => {
  const env = await imageEnv()
  areSettings(t, env)
  t.throws(() => parseConfig(env), /HOST: invalid value "::": expected a loopback address/)
  t.match((await instructions('USER')).at(-1), /^[1-9]\d*:\d+$/)

  const [healthcheck = ''] = await instructions('HEALTHCHECK')
  const [command = '', ...args] = JSON.parse(healthcheck.slice(healthcheck.indexOf('['))) as string[]
  const isHealthy = (port: string | number) =>
    run(command, args, { env: { ...process.env, PORT: String(port) } }).then(
      () => true,
      ({ code }: { code: number }) => code !== 1,
    )
  const { url } = await testDatabase(t)
  const replica = await startReplica(t, url)
  t.equal(await isHealthy(new URL(replica.url).port), true)
  t.equal(await isHealthy(await freePort()), false)
})

t.test('all that the image is built from is there, and goes to the builder', async (t) => {
  const sources = (await instructions('COPY'))
    .filter((line) => !line.startsWith('--from'))
    .flatMap((line) => line.split(' ').slice(0, -1))
    .map((source) => source.replace('./', ''))
  const sent = (await read('.dockerignore')).matchAll(/^!(.*)$/gm)
  t.strictSame([...new Set(sources)].toSorted(), [...sent].map(([, name]) => name).toSorted())
  for (const source of sources) await access(ROOT + source)
})

interface Compose {
  services: Record<
    string,
    { environment: Record<string, string | number>; stop_grace_period: string; ports?: string[] }
  >
}

t.test('with Compose the replicas start with the secrets filled in, and none has a default', async (t) => {
  const text = await read('deploy/compose.yaml')
  const example = parseEnv(await read('deploy/.env.example')) as Strings
  const asked = [...text.matchAll(/\$\{(\w+)(.*?)\}/g)]
  for (const [, name = '', whenUnset = ''] of asked) {
    t.equal(example[name], '', `${name} is left to be filled in`)
    t.match(whenUnset, /^:\?./, 'empty is refused')
  }
  t.strictSame([...new Set(asked.map(([, name]) => name))].toSorted(), Object.keys(example).toSorted())

  const image = await imageEnv()
  const secrets = filledIn(example)
  const { services } = parse(
    text.replaceAll(/\$\{(\w+).*?\}/g, (_, name: string) => secrets[name] ?? ''),
    { merge: true },
  ) as Compose
  const { postgres, ...replicas } = services
  t.equal(Object.keys(replicas).length, 2)
  for (const [name, { environment, stop_grace_period: grace, ports }] of Object.entries(replicas)) {
    areSettings(t, environment)
    const config = parseConfig({ ...image, ...strings(environment) })
    const url = new URL(config.DATABASE_URL ?? '')
    t.equal(url.password, postgres?.environment.POSTGRES_PASSWORD)
    t.equal(config.REPLICA_NAME, name)
    t.ok(Number.parseInt(grace, 10) * 1000 >= config.SHUTDOWN_TIMEOUT_MS + MARGIN_MS)
    t.match(ports?.[0], new RegExp(`^127\\.0\\.0\\.1:\\d+:${config.PORT}$`))
  }
})
