// drizzle-kit: generates drizzle/ from src/database/schema.ts.

import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: './src/database/schema.ts',
  out: './drizzle',
})
