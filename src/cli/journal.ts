/** The entry of `npm run journal`: checks the version of Node, then loads the command. Main thread of a process of its own. */
import { requireSupportedNode } from '../core/supported-node.js';

requireSupportedNode();
void import('./journal-tool.js');
