// What the clients in JavaScript have in common; see driver.py.

import { createInterface } from 'node:readline'

export const ROOT = process.env.ENDPOINT
export const MODEL = process.env.MODEL
export const BASE = `${ROOT}/v1`
export const KEY = 'none'
export const SAY = 'Say only this one word: harbour'
export const USER = { role: 'user', content: SAY }
export const TALK = { role: 'user', content: 'Tell me a long story.' }
export const WEATHER = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
}

export async function joined(chunks) {
  let text = ''
  for await (const chunk of chunks) text += chunk ?? ''
  return text
}

export async function serve(steps) {
  console.log(JSON.stringify({ steps: Object.keys(steps) }))
  for await (const line of createInterface({ input: process.stdin })) {
    const { step, seconds } = JSON.parse(line)
    const began = performance.now()
    let said
    try {
      said = { gave: await steps[step](seconds) }
    } catch (error) {
      said = { error: error.constructor.name, message: String(error) }
    }
    console.log(JSON.stringify({ ...said, seconds: (performance.now() - began) / 1000 }))
  }
}
