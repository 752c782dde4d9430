// A js-libp2p peer that does what it is told: one JSON command a line on stdin, one JSON answer a line.
// Started by path, from a directory outside the repository that has the packages of package.json.

import { createHash, randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'

// Node 20, which is common still, has all that js-libp2p needs but this (and a flag turns its WebSocket on).
Promise.withResolvers ??= () => {
  const deferred = {}
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}
const [{ circuitRelayServer, circuitRelayTransport }, { dcutr }, { identify }, { noise }, { peerIdFromString }, { ping }, { tcp }, { tls }, { webSockets }, { yamux }, { multiaddr }, { createLibp2p }] =
  await Promise.all([
    import('@libp2p/circuit-relay-v2'),
    import('@libp2p/dcutr'),
    import('@libp2p/identify'),
    import('@libp2p/noise'),
    import('@libp2p/peer-id'),
    import('@libp2p/ping'),
    import('@libp2p/tcp'),
    import('@libp2p/tls'),
    import('@libp2p/websockets'),
    import('@libp2p/yamux'),
    import('@multiformats/multiaddr'),
    import('libp2p')
  ])

const ECHO = '/test/echo/1'
const SECURITY = { noise, tls }

const node = await createLibp2p({
  addresses: { listen: [process.argv[3]], appendAnnounce: process.argv.slice(5) },
  transports: [tcp(), webSockets(), circuitRelayTransport()],
  connectionEncrypters: process.argv[2].split(',').map((name) => SECURITY[name]()),
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify(),
    ping: ping({ runOnLimitedConnection: true }),
    ...(process.argv[4] === 'relay' ? { relay: circuitRelayServer() } : {}),
    ...(process.argv[4] === 'punch' ? { dcutr: dcutr() } : {})
  }
})

const write = async (stream, data) => {
  if (!stream.send(data)) {
    await stream.onDrain()
  }
}

const hash = (chunks) => {
  const digest = createHash('sha256')
  for (const chunk of chunks) digest.update(chunk)
  return digest.digest('hex')
}

await node.handle(ECHO, async (stream) => {
  for await (const chunk of stream) {
    await write(stream, chunk.subarray())
  }
  await stream.close()
}, { runOnLimitedConnection: true })

const commands = {
  async dial ({ addr }) {
    const connection = await node.dial(multiaddr(addr))
    return { peer: connection.remotePeer.toString(), encryption: connection.encryption, muxer: connection.multiplexer }
  },
  async reserve ({ addr }) {
    await node.components.transportManager.listen([multiaddr(`${addr}/p2p-circuit`)])
    while (true) {
      const relayed = node.getMultiaddrs().map(String).filter((own) => own.includes('/p2p-circuit'))
      if (relayed.length > 0) return { addrs: relayed }
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  },
  async echo ({ peer, size }) {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO, { runOnLimitedConnection: true })
    const data = randomBytes(size)
    const sending = (async () => {
      for (let start = 0; start < size; start += 65536) {
        await write(stream, data.subarray(start, start + 65536))
      }
      await stream.close()
    })()
    const heard = []
    for await (const chunk of stream) {
      heard.push(chunk.subarray())
    }
    await sending
    return { same: hash(heard) === hash([data]), size: heard.reduce((sum, chunk) => sum + chunk.length, 0) }
  },
  async ping ({ peer }) {
    return { ms: await node.services.ping.ping(peerIdFromString(peer)) }
  },
  async identify ({ peer }) {
    const known = await node.services.identify.identify(node.getConnections(peerIdFromString(peer))[0])
    return {
      agent: known.agentVersion,
      protocols: known.protocols,
      listen: known.listenAddrs.map(String),
      observed: String(known.observedAddr)
    }
  },
  async connections () {
    return node.getConnections().map((connection) => ({
      peer: connection.remotePeer.toString(), addr: connection.remoteAddr.toString(), encryption: connection.encryption, muxer: connection.multiplexer
    }))
  }
}

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
say({ peer: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) })
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line)
  try {
    say({ ok: await commands[command](rest) })
  } catch (error) {
    say({ error: `${error?.name}: ${error?.message}` })
  }
}
process.exit(0)
