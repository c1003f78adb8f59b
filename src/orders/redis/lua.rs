//! The scripts: whatever changes more than one key is one of them, so that it is done as a whole or not at all.
//!
//! The keys of a queue `q`, all of them in the slot of its hash tag:
//!
//! | key | what is in it |
//! |---|---|
//! | `wp:{q}:s:0` .. `s:2` | a stream for each priority with what waits and what is leased; its group is `w` |
//! | `wp:{q}:i` | hash, by id: rank, entry (`0-0` while delayed), result TTL, cancelled, times handed back, unique key |
//! | `wp:{q}:z`, `wp:{q}:zb` | what is not due: zset of ids by time, and hash by id: failures, deadline, order |
//! | `wp:{q}:u` | hash: unique key, id |
//! | `wp:{q}:dead`, `wp:{q}:d` | dead letters: stream, and hash of their entries by id |
//! | `wp:{q}:r:ID` | list: the last is the result, as `+` and bytes or `-` and an error; it expires |
//! | `wp:{q}:n` | list: a wake-up for one of those who wait for orders |
//! | `wp:{q}:h` | there are leases that have ended, or may be |
//! | `wp:{q}:w:CONSUMER` | list: wake-ups for one process |
//!
//! An entry has the fields `id`, `n` (failures), `dl` (deadline or 0) and `b` (the order), in this sequence.
//!
//! A lease is an entry in the group's list of pending ones. Its fence is the count of deliveries, and its end is when the
//! entry has been idle for a day: one that is leased for a minute starts as idle for a day less a minute. So leases of any
//! length end when they should, whoever looks. What is handed back is idle for two days, and belongs to nobody.

/// A day, in milliseconds: the longest lease.
pub(super) const DAY: u64 = 24 * 60 * 60 * 1000;

/// What all scripts begin with.
const PRELUDE: &str = r"
local S = {KEYS[1], KEYS[2], KEYS[3]}
local INDEX, DUE, BODIES, UNIQUE, DEAD, DEADS = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local WAKE, BACK, RESULT = KEYS[10], KEYS[11], KEYS[12]
local DAY = 86400000
local call = redis.call
local function now()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function parse(v)
  return string.match(v, '^(%d) (%S+) (%d+) (%d) (%d+) (.*)$')
end
local function wake()
  if call('LLEN', WAKE) == 0 then call('LPUSH', WAKE, 1) end
end
local function add(p, id, n, dl, body)
  return call('XADD', S[p + 1], '*', 'id', id, 'n', n, 'dl', dl, 'b', body)
end
";

/// What those that put something off begin with.
const DELAY: &str = r"
local function delay(id, due, n, dl, body)
  call('ZADD', DUE, due, id)
  call('HSET', BODIES, id, n .. ' ' .. dl .. ' ' .. body)
  if call('ZRANGE', DUE, 0, 0)[1] == id then wake() end
end
";

/// What those that bring something to its end begin with.
const FINISH: &str = r"
local over = {}
local function finish(id, key, ttl, text)
  over[#over + 1] = id
  if key ~= '' then call('HDEL', UNIQUE, key) end
  if ttl ~= '0' then
    call('RPUSH', RESULT .. id, text)
    call('PEXPIRE', RESULT .. id, ttl)
  end
end
local function forget()
  if #over > 0 then call('HDEL', INDEX, unpack(over)) end
end
local function bury(id, n, why, body)
  while call('XLEN', DEAD) >= 10000 do
    local oldest = call('XRANGE', DEAD, '-', '+', 'COUNT', 1)[1]
    call('XDEL', DEAD, oldest[1])
    if call('HGET', DEADS, oldest[2][2]) == oldest[1] then call('HDEL', DEADS, oldest[2][2]) end
  end
  call('HSET', DEADS, id, call('XADD', DEAD, '*', 'id', id, 'n', n + 1, 'err', why, 'b', body))
end
local function drop(s, e)
  call('XACK', s, 'w', e)
  call('XDEL', s, e)
end
";

/// Capacity; for each order: id, rank, due, result TTL, deadline, unique key, order. For each: nothing if it is in, `i` if
/// it is there, `k` and the id of the other that has its key, `f` and how many orders there are.
const ENQUEUE: &str = r"
local t = now()
local size, capacity = call('HLEN', INDEX), tonumber(ARGV[1])
local answers, waiting, index, new, ids = {}, false, {'HSET', INDEX}, {}, {}
for at = 2, #ARGV, 7 do ids[#ids + 1] = ARGV[at] end
local found = call('HMGET', INDEX, unpack(ids))
local dead = call('HLEN', DEADS) > 0 and call('HMGET', DEADS, unpack(ids)) or {}
for at = 2, #ARGV, 7 do
  local id, p, due, ttl, dl, key, body = unpack(ARGV, at, at + 6)
  local there = key ~= '' and call('HGET', UNIQUE, key)
  local answer = ''
  if new[id] or found[#answers + 1] or dead[#answers + 1] then
    answer = 'i'
  elseif there then
    answer = 'k' .. there
  elseif size >= capacity then
    answer = 'f' .. size
  else
    local e = '0-0'
    if tonumber(due) > t then
      delay(id, due, 0, dl, body)
    else
      e = add(p, id, 0, dl, body)
      waiting = true
    end
    index[#index + 1] = id
    index[#index + 1] = p .. ' ' .. e .. ' ' .. ttl .. ' 0 0 ' .. key
    new[id] = true
    if key ~= '' then call('HSET', UNIQUE, key, id) end
    size = size + 1
  end
  answers[#answers + 1] = answer
end
if #index > 2 then call(unpack(index)) end
if waiting then wake() end
return answers
";

/// Consumer, how many, lease, 1 to look for leases that have ended. How long it is until there is more (or -1); what
/// was leased before, for each: id, rank, entry, count of deliveries as the group has it, failures, deliveries,
/// cancelled, order; then for each priority what is new, for each: id, entry, failures, order.
///
/// What is new is read, and claimed by one command that also moves the group on: nothing can fail in between, and the server
/// writes each lease to its file once.
const LEASE: &str = r"
local me, max, idle = ARGV[1], tonumber(ARGV[2]), DAY - ARGV[3]
local t = now()
local old, got, new = {}, 0, {{}, {}, {}}
local function is_over(p, e, fields, v)
  local id, n, dl, body = fields[2], fields[4], tonumber(fields[6]), fields[8]
  if not v or not dl or not body then
    bury(id or '', tonumber(n) or 0, 'not an order', body or '')
  elseif dl > 0 and dl <= t then
    local _, _, ttl, _, _, key = parse(v)
    bury(id, n, 'deadline exceeded', body)
    finish(id, key, ttl, '-deadline exceeded')
  else
    return false
  end
  drop(S[p + 1], e)
  return true
end

local head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
if head[2] and tonumber(head[2]) <= t then
  for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', t, 'LIMIT', 0, 128)) do
    local v, b = call('HGET', INDEX, id), call('HGET', BODIES, id)
    call('ZREM', DUE, id)
    call('HDEL', BODIES, id)
    if v and b then
      local p, _, ttl, cancelled, _, key = parse(v)
      local n, dl, body = string.match(b, '^(%d+) (%d+) (.*)$')
      local e = add(p, id, n, dl, body)
      call('HSET', INDEX, id, p .. ' ' .. e .. ' ' .. ttl .. ' ' .. cancelled .. ' 0 ' .. key)
    end
  end
  head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
end

-- Whether nothing more is to be taken; whether there is, or may be, more that was handed back or lost; and more that is new.
local scan, stop, more, rest = ARGV[4] == '1' or call('EXISTS', BACK) == 1, false, false, false

-- What was handed back or lost, at this priority. What was lost goes by itself.
local function take_back(p)
  local s = S[p + 1]
  local rows = call('XPENDING', s, 'w', 'IDLE', DAY, '-', '+', 64)
  if #rows == 64 then more = true end
  for _, row in ipairs(rows) do
    local e, count = row[1], row[4]
    if stop or got >= max then
      more = true
      return
    end
    local entry = call('XRANGE', s, e, e)[1]
    if not entry then
      call('XACK', s, 'w', e)
    else
      local fields = entry[2]
      local v = call('HGET', INDEX, fields[2] or '')
      local _, cancelled, back = nil, 0, 0
      if v then _, _, _, cancelled, back = parse(v) end
      local lost = count > tonumber(back)
      if lost and got > 0 then
        stop, more = true, true
      else
        call('XCLAIM', s, 'w', me, DAY, e, 'IDLE', idle, 'RETRYCOUNT', count + 1, 'JUSTID')
        if not is_over(p, e, fields, v) then
          local row = {fields[2], p, e, count + 1, fields[4], count - back + 1, cancelled, fields[8]}
          for _, part in ipairs(row) do old[#old + 1] = part end
          got = got + 1
          stop = lost
        end
      end
    end
  end
end

-- What is new, at this priority. One more than can be handed out is asked for: whether there is more is what others have
-- to know.
local function take_new(p)
  local s, out, size = S[p + 1], new[p + 1], 0
  if call('XLEN', s) == 0 then return end
  local last
  for _, info in ipairs(call('XINFO', 'GROUPS', s)) do
    local group = {}
    for at = 1, #info, 2 do group[info[at]] = info[at + 1] end
    if group.name == 'w' then last = group['last-delivered-id'] end
  end
  if not last then return 'NOGROUP there is no group' end
  local entries = call('XRANGE', s, '(' .. last, '+', 'COUNT', max - got + 1)
  local count = #entries
  if count > max - got then
    count, rest = count - 1, true
  end
  if count == 0 then return end
  local claim, ids = {}, {}
  for at = 1, count do
    claim[at] = entries[at][1]
    ids[at] = entries[at][2][2] or ''
  end
  last = claim[count]
  for at, option in ipairs({'IDLE', idle, 'RETRYCOUNT', 1, 'FORCE', 'JUSTID', 'LASTID', last}) do
    claim[count + at] = option
  end
  call('XCLAIM', s, 'w', me, 0, unpack(claim))
  local found = call('HMGET', INDEX, unpack(ids))
  for at = 1, count do
    local e, fields, v = entries[at][1], entries[at][2], found[at]
    if v and fields[8] and fields[6] == '0' or not is_over(p, e, fields, v) then
      out[size + 1], out[size + 2], out[size + 3], out[size + 4] = fields[2], e, fields[4], fields[8]
      size = size + 4
      got = got + 1
    end
  end
end

for p = 0, 2 do
  if scan then take_back(p) end
  rest = rest or stop
  local failure = not rest and take_new(p)
  if failure then return redis.error_reply(failure) end
end
if scan then
  if more then call('SET', BACK, 1) else call('DEL', BACK) end
end

forget()
local left = -1
if more or rest then
  wake()
  left = 0
elseif head[2] then
  left = math.min(math.max(head[2] - t, 0), 1000000000)
end
return {left, old, new[1], new[2], new[3]}
";

/// Consumer, lease; for each: rank, entry, count, id. For each: 0 if it is lost, 1 if it is held, 2 if it is cancelled.
const RENEW: &str = r"
local me, idle = ARGV[1], DAY - ARGV[2]
local answers, claims = {}, {{}, {}, {}}
for at = 3, #ARGV, 4 do
  local p, e, count, id = unpack(ARGV, at, at + 3)
  local row = call('XPENDING', S[p + 1], 'w', e, e, 1, me)[1]
  local v = row and row[4] == tonumber(count) and call('HGET', INDEX, id)
  local answer = 0
  if v then
    local _, _, _, cancelled = parse(v)
    answer = 1 + cancelled
    local claim = claims[p + 1]
    claim[#claim + 1] = e
  end
  answers[#answers + 1] = answer
end
for p = 1, 3 do
  local claim = claims[p]
  if #claim > 0 then
    claim[#claim + 1] = 'IDLE'
    claim[#claim + 1] = idle
    claim[#claim + 1] = 'JUSTID'
    call('XCLAIM', S[p], 'w', me, 0, unpack(claim))
  end
end
return answers
";

/// Consumer; then groups of settlements that are alike: verdict (`c`, `d`, `x`, `r`, `b`), rank, count, delay, the
/// first and the last entry, how many they are; for each of them: id, entry, result or error. For each: 1 if that is
/// settled now, 0 if the lease was void.
///
/// What this process holds between the first and the last entry is asked for at once, and singly only if that is much more
/// than there is to settle.
const SETTLE: &str = r"
local me, t, at = ARGV[1], now(), 2
local answers, back, known = {}, false, {}
while ARGV[at] do
  local verdict, p, count, after, first, last, size = unpack(ARGV, at, at + 6)
  local s, ids, gone, held = S[p + 1], {}, {}, {}
  local from, to, limit = at + 7, at + 6 + 3 * size, 2 * size
  at, count = to + 1, tonumber(count)
  for at = from, to, 3 do ids[#ids + 1] = ARGV[at] end
  local found, rows = call('HMGET', INDEX, unpack(ids)), call('XPENDING', s, 'w', first, last, limit, me)
  for row = 1, #rows do held[rows[row][1]] = rows[row][4] end
  for nth = 1, #ids do
    local id, e, v = ids[nth], ARGV[from + 3 * nth - 2], found[nth]
    if held[e] == nil and #rows == limit then
      local row = call('XPENDING', s, 'w', e, e, 1, me)[1]
      held[e] = row and row[4]
    end
    local place, order = p .. ' ' .. e .. ' ', nil
    if held[e] == count and v and string.sub(v, 1, #place) == place then
      local rest = string.sub(v, #place + 1)
      order = known[rest]
      if not order then
        local _, _, ttl, cancelled, returns, key = parse(v)
        order = {ttl, cancelled, returns, key}
        known[rest] = order
      end
    end
    if not order then
      answers[#answers + 1] = 0
    else
      local text, ttl, cancelled, returns, key = ARGV[from + 3 * nth - 1], unpack(order)
      held[e] = false
      answers[#answers + 1] = 1
      local what = verdict
      if cancelled == '1' and (what == 'r' or what == 'b') then what, text = 'd', 'cancelled' end
      if what == 'b' then
        call('XCLAIM', s, 'w', '-', 0, e, 'IDLE', 2 * DAY, 'JUSTID')
        call('HSET', INDEX, id, place .. ttl .. ' ' .. cancelled .. ' ' .. (returns + 1) .. ' ' .. key)
        back = true
      else
        if what == 'c' then
          finish(id, key, ttl, '+' .. text)
        elseif what == 'd' then
          finish(id, key, ttl, '-' .. text)
        else
          local fields = call('XRANGE', s, e, e)[1][2]
          local n, dl, body = fields[4], fields[6], fields[8]
          if what == 'x' then
            bury(id, n, text, body)
            finish(id, key, ttl, '-' .. text)
          else
            call('HSET', INDEX, id, p .. ' 0-0 ' .. ttl .. ' 0 0 ' .. key)
            delay(id, t + after, n + 1, dl, body)
          end
        end
        gone[#gone + 1] = e
      end
    end
  end
  if #gone > 0 then
    call('XACK', s, 'w', unpack(gone))
    call('XDEL', s, unpack(gone))
  end
end
forget()
if back then
  call('SET', BACK, 1)
  wake()
end
return answers
";

/// Id. 1 if it was there.
const CANCEL: &str = r"
local id = ARGV[1]
local v = call('HGET', INDEX, id)
if not v then return 0 end
local p, e, ttl, _, returns, key = parse(v)
if e == '0-0' then
  call('ZREM', DUE, id)
  call('HDEL', BODIES, id)
else
  local row = call('XPENDING', S[p + 1], 'w', e, e, 1)[1]
  if row and row[2] ~= '-' then
    call('HSET', INDEX, id, p .. ' ' .. e .. ' ' .. ttl .. ' 1 ' .. returns .. ' ' .. key)
    return 1
  end
  drop(S[p + 1], e)
end
finish(id, key, ttl, '-cancelled')
forget()
return 1
";

/// Waiting, delayed, leased, dead.
const COUNTS: &str = r"
local t = now()
local waiting, leased = 0, 0
for p = 1, 3 do
  local pending = call('XPENDING', S[p], 'w')[1] - #call('XPENDING', S[p], 'w', 'IDLE', 2 * DAY, '-', '+', 100000)
  waiting = waiting + call('XLEN', S[p]) - pending
  leased = leased + pending
end
local due = call('ZCOUNT', DUE, '-inf', t)
return {waiting + due, call('ZCARD', DUE) - due, leased, call('XLEN', DEAD)}
";

/// Id. Nothing, or what is needed to requeue it: now, its entry, the order.
const FIND: &str = r"
local e = call('HGET', DEADS, ARGV[1])
local entry = e and call('XRANGE', DEAD, e, e)[1]
if not entry then return {} end
return {now(), e, entry[2][8]}
";

/// Entry; then what ENQUEUE has for an order. Nothing if it is not there any more, else as ENQUEUE.
const REQUEUE: &str = r"
local e, id, p, _, ttl, dl, key, body = unpack(ARGV)
if call('HGET', DEADS, id) ~= e then return {} end
local there = key ~= '' and call('HGET', UNIQUE, key)
if there then return {'k' .. there} end
if call('HEXISTS', INDEX, id) == 1 then return {'i'} end
call('XDEL', DEAD, e)
call('HDEL', DEADS, id)
call('DEL', RESULT .. id)
call('HSET', INDEX, id, p .. ' ' .. add(p, id, 0, dl, body) .. ' ' .. ttl .. ' 0 0 ' .. key)
if key ~= '' then call('HSET', UNIQUE, key, id) end
wake()
return {''}
";

/// Makes the groups, where there are none, and forgets consumers that are gone: idle for an hour, with nothing in hand.
const SET_UP: &str = r"
for p = 1, 3 do
  local made = redis.pcall('XGROUP', 'CREATE', S[p], 'w', '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
  for _, info in ipairs(call('XINFO', 'CONSUMERS', S[p], 'w')) do
    local consumer = {}
    for at = 1, #info, 2 do consumer[info[at]] = info[at + 1] end
    if consumer.pending == 0 and consumer.idle > 3600000 then call('XGROUP', 'DELCONSUMER', S[p], 'w', consumer.name) end
  end
end
return 1
";

/// The scripts, ready to be sent.
pub(super) struct Scripts {
    pub(super) enqueue: ::redis::Script,
    pub(super) lease: ::redis::Script,
    pub(super) renew: ::redis::Script,
    pub(super) settle: ::redis::Script,
    pub(super) cancel: ::redis::Script,
    pub(super) counts: ::redis::Script,
    pub(super) find: ::redis::Script,
    pub(super) requeue: ::redis::Script,
    pub(super) set_up: ::redis::Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        // Each is made anew with every call: a script has what it needs, and no more.
        let script = |parts: &[&str]| ::redis::Script::new(&format!("{PRELUDE}{}", parts.concat()));
        Scripts {
            enqueue: script(&[DELAY, ENQUEUE]),
            lease: script(&[FINISH, LEASE]),
            renew: script(&[RENEW]),
            settle: script(&[DELAY, FINISH, SETTLE]),
            cancel: script(&[FINISH, CANCEL]),
            counts: script(&[COUNTS]),
            find: script(&[FIND]),
            requeue: script(&[REQUEUE]),
            set_up: script(&[SET_UP]),
        }
    }

    pub(super) fn all(&self) -> [&::redis::Script; 9] {
        [
            &self.enqueue,
            &self.lease,
            &self.renew,
            &self.settle,
            &self.cancel,
            &self.counts,
            &self.find,
            &self.requeue,
            &self.set_up,
        ]
    }
}
