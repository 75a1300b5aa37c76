#!/usr/bin/env node
/** The entry of the server: checks the version of Node, then loads the server. Main thread. */
import { requireSupportedNode } from './core/supported-node.js';

requireSupportedNode();
void import('./serve.js');
