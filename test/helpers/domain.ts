// Replaces async-hook-domain, which tap uses to find the test that caused an uncaught error: file-test.ts does. That package
// has a callback called for every promise of the process, also those of the service, which takes a tenth of the tests' CPU
// time.

export class Domain {
  destroy(): void {}
}
