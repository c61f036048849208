// The `@anthropic-ai/sdk` package of Node.

import Anthropic from '@anthropic-ai/sdk'
import { KEY, MODEL, ROOT, TALK, USER, WEATHER, serve } from './driver.mjs'

const client = new Anthropic({ baseURL: ROOT, apiKey: KEY })
const ask = { model: MODEL, messages: [USER], max_tokens: 64 }
const tool = { name: 'weather', input_schema: WEATHER }

async function chat() {
  return (await client.messages.create(ask)).content[0].text
}

async function held() {
  return await client.messages.stream(ask).finalText()
}

await serve({
  models: async () => (await client.models.list()).data.map((each) => each.id),
  chat,
  stream: async () => {
    const events = client.messages.stream(ask)
    let text = ''
    events.on('text', (piece) => (text += piece))
    return [text || (await events.finalText()), (await events.finalMessage()).stop_reason]
  },
  tools: async () => {
    const answer = await client.messages.create({ ...ask, tools: [tool] })
    const [call] = answer.content
    const result = { type: 'tool_result', tool_use_id: call.id, content: 'sunny' }
    const messages = [USER, { role: 'assistant', content: answer.content }, { role: 'user', content: [result] }]
    const after = await client.messages.create({ ...ask, messages, tools: [tool] })
    return [call.name, call.input, answer.stop_reason, !!after.content[0].text]
  },
  count: async () => (await client.messages.countTokens({ model: MODEL, messages: [USER] })).input_tokens,
  abort: async () => {
    const events = client.messages.stream({ ...ask, messages: [TALK], max_tokens: 900 })
    for await (const event of events) {
      if (event.type !== 'content_block_delta') continue
      events.abort()
      return !!event.delta.text
    }
  },
  timeout: (seconds) => client.messages.create(ask, { timeout: seconds * 1000, maxRetries: 0 }),
  retry: chat,
  held,
})
