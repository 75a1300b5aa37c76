/** Objects of the product with some members replaced, as most planted bugs need them. */

/** Members in place of those of an object; undefined: the object lacks an optional one. */
export type Overrides<T> = { readonly [Name in keyof T]?: T[Name] | undefined };

/** The object with these members in place of its own. Members that are private to its class keep their object. */
export function overridden<T extends object>(target: T, overrides: Overrides<T>): T {
  return new Proxy(target, {
    get(_, name) {
      if (Object.hasOwn(overrides, name)) return Reflect.get(overrides, name) as unknown;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}
