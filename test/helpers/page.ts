// The status page as a person uses it in a browser.

import type { Browser, Page } from 'playwright-core'
import type { Test } from 'tap'

const AGENT = 'agent-token-agent-token-1'
export const ADMIN = 'admin-token-admin-token-1'
export const TOKENS = { AGENT_TOKENS: AGENT, ADMIN_TOKENS: ADMIN }
export const asAgent = { authorization: `Bearer ${AGENT}` }
export const asAdmin = { authorization: `Bearer ${ADMIN}` }

/** Opens the page; the test fails if the browser then reports an error or a violation of the policy. */
export async function openPage(t: Test, browser: Browser, url: string, width = 1280): Promise<Page> {
  const page = await browser.newPage({
    viewport: { width, height: 900 },
    locale: 'en-GB',
    timezoneId: 'Asia/Kolkata',
  })
  const complain = (what: string) => t.fail(`the browser complains: ${what}`)
  page.on('pageerror', ({ message }) => complain(message))
  page.on('console', (message) => {
    // The browser also logs every error response; the test decides whether it was expected.
    if (message.type() !== 'log' && !message.text().startsWith('Failed to load resource'))
      complain(message.text())
  })
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) complain(`asked ${request.url()}`)
    if (request.url().includes('token-')) complain(`a token is in ${request.url()}`)
  })
  await page.clock.install()
  await page.goto(url)
  t.teardown(() => page.close())
  return page
}

export async function enter(page: Page, token: string): Promise<void> {
  await page.getByLabel('Token', { exact: true }).fill(token)
  await page.keyboard.press('Enter')
}

/** Waits until the page shows what the service responded, whether all is well or not. */
export const upToDate = (page: Page) => says(page, 'status', /^(All |[1-6] check)/)

/** Waits until the element of that id says it. */
export async function says(page: Page, id: string, text: RegExp | string): Promise<void> {
  await page.locator(`#${id}`).filter({ hasText: text, visible: true }).waitFor({ timeout: 20_000 })
}

export const text = (page: Page, id: string) => page.locator(`#${id}`).innerText()
export const shown = (n: number) => new Intl.NumberFormat('en-GB').format(n)
export const isWide = (page: Page) => page.evaluate('document.documentElement.scrollWidth > innerWidth')
export const focused = (page: Page) =>
  page.evaluate('document.activeElement.id || document.activeElement.value')
