// The `openai` package of Node.

import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { BASE, KEY, MODEL, SAY, TALK, USER, WEATHER, serve } from './driver.mjs'

const client = new OpenAI({ baseURL: BASE, apiKey: KEY })
const tool = { type: 'function', function: { name: 'weather', parameters: WEATHER } }
const ask = { model: MODEL, messages: [USER], max_tokens: 64 }
const input = { model: MODEL, input: SAY, max_output_tokens: 64 }
const City = z.object({ city: z.string() })

async function stream() {
  let text = ''
  const chunks = await client.chat.completions.create({ ...ask, stream: true })
  for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? ''
  return text
}

async function chat() {
  const done = await client.chat.completions.create(ask)
  return done.choices[0].message.content
}

await serve({
  models: async () => (await client.models.list()).data.map((each) => each.id),
  chat,
  stream,
  tools: async () => {
    const tools = [tool]
    const { message } = (await client.chat.completions.create({ ...ask, tools })).choices[0]
    const [call] = message.tool_calls
    const result = { role: 'tool', tool_call_id: call.id, content: 'sunny' }
    const after = await client.chat.completions.create({ ...ask, tools, messages: [USER, message, result] })
    return [call.function.name, call.function.arguments, !!after.choices[0].message.content]
  },
  structured: async () => {
    const done = await client.chat.completions.parse({
      ...ask,
      response_format: zodResponseFormat(City, 'city'),
    })
    return done.choices[0].message.parsed
  },
  completions: async () => {
    const done = await client.completions.create({ model: MODEL, prompt: SAY, max_tokens: 64 })
    return done.choices[0].text
  },
  responses: async () => (await client.responses.create(input)).output_text,
  responses_stream: async () => {
    const events = client.responses.stream(input)
    let text = ''
    for await (const event of events) if (event.type === 'response.output_text.delta') text += event.delta
    return [text, (await events.finalResponse()).status]
  },
  responses_structured: async () => {
    const text = { format: zodTextFormat(City, 'city') }
    return (await client.responses.parse({ ...input, text })).output_parsed
  },
  abort: async () => {
    const long = { ...ask, messages: [TALK], max_tokens: 900, stream: true }
    const chunks = await client.chat.completions.create(long)
    for await (const chunk of chunks) {
      chunks.controller.abort()
      return !!chunk.choices[0].delta.content
    }
  },
  timeout: (seconds) =>
    client.chat.completions.create(ask, { timeout: seconds * 1000, maxRetries: 0 }),
  retry: chat,
  held: stream,
})
