// Reads PromQL by Prometheus' own grammar: which series a query asks for, and which labels it groups by.

import { parser } from '@prometheus-io/lezer-promql'

export interface Query {
  /** Each selector: the metric's name, and the values that it wants of labels, or wants not to be. */
  selectors: { name: string; wants: [label: string, value: string][] }[]
  /** Labels that results are grouped by or matched on. */
  labels: string[]
}

/** Throws if it is no PromQL. Alternatives of a regular expression are values each; `.*` and variables are none. */
export function parseQuery(text: string): Query {
  // Grafana puts a duration in its place, and names in those of the other variables, which are within strings.
  const query = text.replaceAll('$__rate_interval', '5m')
  const read: Query = { selectors: [], labels: [] }
  let isGrouping = false
  parser.parse(query).iterate({
    enter({ type, from, to }) {
      const source = query.slice(from, to)
      const selector = read.selectors.at(-1)
      if (type.isError) throw new Error(`no PromQL at ${from}: ${text}`)
      if (type.name === 'VectorSelector') read.selectors.push({ name: '', wants: [] })
      else if (type.name === 'Identifier' && selector?.name === '') selector.name = source
      else if (type.name === 'UnquotedLabelMatcher') {
        const [, label = '', operator = '', values = ''] = /^(\w+)\s*([=!~]+)\s*"(.*)"$/s.exec(source) ?? []
        for (const value of operator.endsWith('~') ? values.split('|') : [values])
          if (value !== '.*' && !value.startsWith('$')) selector?.wants.push([label, value])
      } else if (type.name === 'GroupingLabels') isGrouping = true
      else if (type.name === 'LabelName' && isGrouping) read.labels.push(source)
    },
    leave({ type }) {
      if (type.name === 'GroupingLabels') isGrouping = false
    },
  })
  return read
}
