/**
 * Loaded into every thread of a real server with `node --import`, before the server's own code: its wall clock is ahead by
 * FAST_CLOCK_MS. The product does not know about it.
 */
const aheadMs = Number(process.env['FAST_CLOCK_MS'] ?? '0');
const RealDate = Date;

class FastDate extends RealDate {
  constructor(...args: readonly unknown[]) {
    // Every form of the constructor is that of Date; without arguments it is the time now.
    if (args.length === 0) super(RealDate.now() + aheadMs);
    else super(...(args as [number]));
  }

  static override now(): number {
    return RealDate.now() + aheadMs;
  }
}

globalThis.Date = FastDate as DateConstructor;
