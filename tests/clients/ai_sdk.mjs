// The packages `ai`, `@ai-sdk/openai-compatible` and `@ai-sdk/openai`.

import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Output, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import { BASE, KEY, MODEL, SAY, joined, serve } from './driver.mjs'

const provider = createOpenAICompatible({
  name: 'changeover',
  baseURL: BASE,
  apiKey: KEY,
  supportsStructuredOutputs: true,
})
const openai = createOpenAI({ baseURL: BASE, apiKey: KEY })
const model = provider(MODEL)
const ask = { prompt: SAY, maxOutputTokens: 64 }

async function chat() {
  return (await generateText({ model, ...ask })).text
}

// An error comes as a part of the stream: without this the text would end in silence.
async function streamed(options) {
  let failed
  const { textStream } = streamText({ ...ask, ...options, onError: ({ error }) => (failed = error) })
  const text = await joined(textStream)
  if (failed) throw failed
  return text
}

await serve({
  chat,
  stream: () => streamed({ model }),
  tools: async () => {
    const calls = []
    const weather = tool({
      inputSchema: z.object({ city: z.string() }),
      execute: (input) => {
        calls.push(input)
        return 'sunny'
      },
    })
    const done = await generateText({ model, ...ask, tools: { weather }, stopWhen: stepCountIs(2) })
    return ['weather', calls[0], !!done.text]
  },
  structured: async () => {
    const output = Output.object({ schema: z.object({ city: z.string() }) })
    return (await generateText({ model, ...ask, output })).output
  },
  completions: async () => (await generateText({ model: provider.completionModel(MODEL), ...ask })).text,
  responses: async () => (await generateText({ model: openai(MODEL), ...ask })).text,
  responses_stream: () => streamed({ model: openai(MODEL) }),
  abort: async () => {
    const stop = new AbortController()
    const prompt = 'Tell me a long story.'
    const { textStream } = streamText({ model, prompt, maxOutputTokens: 900, abortSignal: stop.signal })
    for await (const piece of textStream) {
      stop.abort()
      return !!piece
    }
  },
  timeout: (seconds) =>
    generateText({ model, ...ask, maxRetries: 0, abortSignal: AbortSignal.timeout(seconds * 1000) }),
  retry: chat,
  held: () => streamed({ model }),
})
