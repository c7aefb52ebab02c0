// docs/operating.md as a page, so that the runbooks are where the status page links to, also without the internet.

const HEADING = /^#{1,6} (.*)$/
const FENCE = /^ *```/

/** The markdown as it is, with headings that links lead to, and with those links. */
export function toHtml(markdown: string): string {
  let isCode = false
  const lines = escapeHtml(markdown)
    .replaceAll(/\[([^\]]+)\]\((#[\w-]+)\)/g, '<a href="$2">$1</a>')
    .split('\n')
    .map((line) => {
      if (FENCE.test(line)) isCode = !isCode
      const text = isCode ? undefined : HEADING.exec(line)?.[1]
      return text === undefined ? line : `</pre><h2 id="${anchorOf(text)}">${text}</h2><pre>`
    })
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Operating boundary-usage</title>
<link rel="icon" href="../page/icon.svg">
<link rel="stylesheet" href="../page/page.css">
<body class="manual">
<pre>${lines.join('\n')}</pre>
</body>
</html>
`
}

/** As GitHub makes it of a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
    .replaceAll(' ', '-')
}

function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}
