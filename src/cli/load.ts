#!/usr/bin/env node
/** The entry of `npm run load`: checks the version of Node, then loads the command. Main thread of a process of its own. */
import { requireSupportedNode } from '../core/supported-node.js';

requireSupportedNode();
void import('./load-tool.js');
