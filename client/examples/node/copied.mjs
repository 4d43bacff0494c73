// SPDX-License-Identifier: Apache-2.0
//
// Which pages of a process's private file mappings have been copied? Asks cowd, as any user.
//
// Usage: node copied.mjs FILE
//        node copied.mjs [PID [TEXT]]
//
// With FILE: has four pages of it mapped privately, 0 and 2 written, 3 read, 1 left alone, and prints
// a line for each. Node has no mmap, so a child in Python maps them; the file is only read.
//
// Otherwise prints a line for each private file mapping of a process, by default this one: where it
// is, how many pages it has and how many of them have been copied. With TEXT, a line for each page of
// those mappings whose path contains TEXT. Every process maps its program and its libraries privately,
// and owns the pages that it wrote to, at start-up or later.
//
// COWD_SOCKET names another socket than the usual one. Exit status: 0 done, 1 failed, 2 wrong usage.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const TIMEOUT_MILLISECONDS = 30_000;
const LARGEST_ANSWER_BYTES = 32 << 20; // mappings may have long paths
// In a private mapping of a file, an anonymous page is a copy, wherever it is now.
const COPIED = new Set(['PAGE_STATE_ANON', 'PAGE_STATE_ANON_SWAPPED']);

const FOUR_PAGES = `
import sys
from mmap import MAP_PRIVATE, PAGESIZE, PROT_READ, PROT_WRITE, mmap
try:
    with open(sys.argv[1], "rb") as file:
        memory = mmap(file.fileno(), 4 * PAGESIZE, MAP_PRIVATE, PROT_READ | PROT_WRITE)
except (OSError, ValueError) as error:
    sys.exit(f"copied: cannot map four pages of {sys.argv[1]}: {error}")
memory[0] = memory[2 * PAGESIZE] = 1
memory[3 * PAGESIZE]
print("mapped", flush=True)
sys.stdin.read()
`;

process.stdout.on('error', () => process.exit()); // whoever read has seen enough

const definitions = protoLoader.loadSync(['cowd/v1/pageflags.proto', 'error_details.proto'], {
  includeDirs: ['../../../proto', '..'].map((path) => fileURLToPath(new URL(path, import.meta.url))),
  defaults: true,
  enums: String,
  longs: String, // 64 bits do not fit a number; BigInt takes them from here
});
const { PageFlagsService } = grpc.loadPackageDefinition(definitions).cowd.v1;

// COWD_SOCKET may be a plain path as well as what gRPC takes.
const target = (process.env.COWD_SOCKET || 'unix:/run/cowd/cowd.sock').replace(
  /^(?!unix:)/,
  'unix:',
);
const client = new PageFlagsService(target, grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': LARGEST_ANSWER_BYTES,
});

function call(method, request) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + TIMEOUT_MILLISECONDS };
    client[method](request, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// The process's private file mappings, and when it started: what is asked later is asked of the same
// process, not of another one that got its pid.
async function listPrivateFileMappings(pid) {
  const found = [];
  let startAddress = '0';
  let expectedStartTimeTicks = '0';
  do {
    const answer = await call('listMappings', { pid, startAddress, expectedStartTimeTicks });
    found.push(...answer.mappings.filter(({ kind }) => kind === 'MAPPING_KIND_PRIVATE_FILE'));
    startAddress = answer.nextStartAddress;
    expectedStartTimeTicks = answer.startTimeTicks;
  } while (startAddress !== '0');
  return { mappings: found, expectedStartTimeTicks };
}

// The state and the flags of each page of a mapping, in as many calls as that takes.
async function readPages(pid, mapping, expectedStartTimeTicks, info) {
  const pageBytes = BigInt(info.pageSizeBytes);
  const end = BigInt(mapping.endAddress);
  const most = BigInt(info.maximumPageCount);
  const pages = [];
  for (let address = BigInt(mapping.startAddress); address < end; address += most * pageBytes) {
    const left = (end - address) / pageBytes;
    const answer = await call('getPageFlags', {
      pid,
      address: address.toString(),
      count: (left < most ? left : most).toString(),
      expectedStartTimeTicks,
    });
    for (const [index, state] of answer.state.entries()) {
      pages.push({ state, copied: COPIED.has(state), flags: BigInt(answer.kpageflags[index]) });
    }
  }
  return pages;
}

async function main(pid, text) {
  const info = await call('getServerInfo', {});
  const { mappings, expectedStartTimeTicks } = await listPrivateFileMappings(pid);
  if (text === undefined) {
    console.log('ADDRESS        PERM PAGES COPIED PATH');
  }
  for (const mapping of mappings) {
    // Bytes, in truth, and chosen by the process: nothing of them may steer a terminal.
    const path = mapping.path.toString().replace(/\p{C}/gu, '?');
    if (text !== undefined && !path.includes(text)) {
      continue;
    }
    const address = hex(mapping.startAddress).padEnd('0x7fffffffffff'.length);
    const pages = await readPages(pid, mapping, expectedStartTimeTicks, info);
    if (text === undefined) {
      const counts = [pages.length, pages.filter(({ copied }) => copied).length];
      const [all, copied] = counts.map(String);
      console.log(address, mapping.permissions, all.padStart(5), copied.padStart(6), path);
      continue;
    }
    console.log(`${address} ${mapping.permissions} ${path}`);
    console.log(`PAGE ${'STATE'.padEnd(23)} COPIED FLAGS`);
    for (const [number, { state, copied, flags }] of pages.entries()) {
      const answer = copied ? 'yes   ' : 'no    ';
      console.log(String(number).padStart(4), state.padEnd(23), answer, hex(flags));
    }
  }
}

// Returns the exit status.
async function mapFourPages(file) {
  const child = spawn('python3', ['-c', FOUR_PAGES, file], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  try {
    if ((await Promise.race([ended, once(child.stdout, 'data')]))[0] === 1) {
      return 1; // the child has said why
    }
    await main(child.pid, realpathSync(file));
    return 0;
  } finally {
    child.stdin.end();
    await ended;
  }
}

function hex(word) {
  return `0x${BigInt(word).toString(16)}`;
}

// Why cowd refused a call, such as "ACCESS_DENIED"; undefined if the failure is not cowd's own.
function readReason(error) {
  const [status] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const details = status ? definitions['cowd.examples.Status'].deserialize(status).details : [];
  const info = details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
  return info && definitions['cowd.examples.ErrorInfo'].deserialize(info.value).reason;
}

// What to tell the user about a failed call.
function explain(error) {
  const code = grpc.status[error.code];
  const reason = readReason(error);
  if (reason) {
    return `${code} (${reason}): ${error.details}`;
  }
  if (error.code === grpc.status.UNAVAILABLE) {
    return (
      `cannot reach cowd at ${target}: ${code}: ${error.details}\n` +
      'Is the daemon running? Another socket is named by COWD_SOCKET.'
    );
  }
  return `${code}: ${error.details}`;
}

const [first = String(process.pid), text, ...rest] = process.argv.slice(2);
// Of seven digits at most, as the kernel gives them: a longer number might be cut to another one.
const isPid = /^[0-9]{1,7}$/.test(first);
if (rest.length > 0 || (!isPid && text !== undefined)) {
  console.error('usage: node copied.mjs FILE\n       node copied.mjs [PID [TEXT]]');
  process.exit(2);
}
try {
  if (isPid) {
    await main(Number(first), text);
  } else {
    process.exitCode = await mapFourPages(first);
  }
} catch (error) {
  if (!(error.code in grpc.status)) {
    throw error; // a mistake in this program
  }
  console.error(`copied: ${explain(error)}`);
  process.exitCode = 1;
}
client.close();
