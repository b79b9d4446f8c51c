#!lua name=troupe_1

-- The parts of the store that must be decided in one piece. No block ever passes through here.
--
-- Keys of a replay log, always handed over by the caller:
--   state         hash: counters, limits, attempt
--   versions      hash: newest published version by policy
--   reservations  hash: token -> "steps bytes expires", room promised to blocks on their way, and
--                 total -> "steps bytes first", their sum and when the first of them expires
--   sizes         list: "steps bytes" of every block in the log, oldest first, and the tickets of
--                 the prompts that it answers
--   log           stream: the blocks
-- Every function may run over the memory limit: refusing one would keep memory from being freed.

local function number(state, name)
  return tonumber(redis.call('HGET', state, name) or 0)
end

local function fields(key)
  local flat, map = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    map[flat[i]] = flat[i + 1]
  end
  return map
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function sum(sizes)
  local steps, bytes = 0, 0
  for _, size in ipairs(sizes) do
    local s, b = size:match('^(%d+) (%d+)')
    steps, bytes = steps + s, bytes + b
  end
  return steps, bytes
end

local function numbers(promise)
  local steps, bytes, time = promise:match('^(%-?%d+) (%-?%d+) (%d+)$')
  return tonumber(steps), tonumber(bytes), tonumber(time)
end

local function promise_of(steps, bytes, time)
  return string.format('%d %d %d', steps, bytes, time)
end

-- The sum of all promises, and when the first of them expires: 0 for never.
local function total(reservations)
  return numbers(redis.call('HGET', reservations, 'total') or '0 0 0')
end

-- Forgets promises of the dead, and adds up the others.
local function sweep(reservations, time)
  local steps, bytes, first = 0, 0, 0
  redis.call('HDEL', reservations, 'total')
  for token, promise in pairs(fields(reservations)) do
    local s, b, expires = numbers(promise)
    if expires < time then
      redis.call('HDEL', reservations, token)
    else
      steps, bytes = steps + s, bytes + b
      first = first == 0 and expires or math.min(first, expires)
    end
  end
  redis.call('HSET', reservations, 'total', promise_of(steps, bytes, first))
  return steps, bytes
end

-- Room promised and not yet used. However many promises there are, they are looked through only
-- when one may have expired.
local function reserved(reservations, time)
  local steps, bytes, first = total(reservations)
  if first > 0 and first < time then return sweep(reservations, time) end
  return steps, bytes
end

-- Takes a promise away, used or not; 1, or 0 if there is none.
local function release(reservations, token)
  local held = redis.call('HGET', reservations, token)
  if not held then return 0 end
  local steps, bytes = numbers(held)
  local s, b, first = total(reservations)
  redis.call('HDEL', reservations, token)
  redis.call('HSET', reservations, 'total', promise_of(s - steps, b - bytes, first))
  return 1
end

local function promise(reservations, token, steps, bytes, expires)
  release(reservations, token) -- a call that was sent twice
  local s, b, first = total(reservations)
  first = first == 0 and expires or math.min(first, expires)
  redis.call('HSET', reservations, token, promise_of(steps, bytes, expires),
    'total', promise_of(s + steps, b + bytes, first))
end

local function fenced(state, attempt)
  return tonumber(attempt) < number(state, 'attempt')
end

-- The rate limiter's rule; limiter.py has it in words, and as the reference for the tests.
local function may_insert(s, n)
  return s.inserts + n - s.deletes <= s.min_size
    or (s.inserts + n) * s.samples_per_insert - s.samples <= s.max_diff
end

local function may_sample(s, n)
  return s.inserts - s.deletes >= s.min_size
    and s.inserts * s.samples_per_insert - s.samples - n >= s.min_diff
end

-- Counters and limits as numbers, or nothing while the learner has not set the limits.
local function load(state)
  local s = {inserts = 0, samples = 0, retained_steps = 0, retained_bytes = 0, attempt = 0}
  for name, value in pairs(fields(state)) do
    s[name] = tonumber(value)
  end
  s.deletes = s.inserts - s.retained_steps
  return s.max_diff and s
end

-- state versions reservations waiting | token attempt lease_ms (steps bytes policy oldest)...
-- Promises room to the longest run of blocks that fits, in order. Returns a verdict for each:
-- ok, stale, fenced, or what it waits for: limits, capacity, retained.
redis.register_function{function_name = 'troupe_1_reserve', flags = {'allow-oom'},
callback = function(keys, args)
  local state, versions, reservations, waiting = unpack(keys)
  local s, time, attempt = load(state), now(), tonumber(args[2])
  local promised_steps, promised_bytes = reserved(reservations, time)
  local steps, bytes, granted, verdicts, blocked = 0, 0, 0, {}, nil
  for i = 4, #args, 4 do
    local n, size = tonumber(args[i]), tonumber(args[i + 1])
    local newest = tonumber(redis.call('HGET', versions, args[i + 2]) or args[i + 3])
    local verdict = 'ok'
    if not s then
      verdict, blocked = 'limits', 'limits'
    elseif attempt < s.attempt then
      verdict = 'fenced'
    elseif n > 0 and newest - args[i + 3] > s.max_staleness then
      verdict = 'stale'
    elseif blocked then
      verdict = blocked
    elseif s.retained_bytes + promised_bytes + bytes + size > s.max_bytes then
      verdict, blocked = 'retained', 'retained'
    else
      s.inserts = s.inserts + promised_steps + steps
      local fits = may_insert(s, n)
      s.inserts = s.inserts - promised_steps - steps
      if fits then
        steps, bytes, granted = steps + n, bytes + size, granted + 1
      else
        verdict, blocked = 'capacity', 'capacity'
      end
    end
    verdicts[#verdicts + 1] = verdict
  end
  if granted > 0 then -- not steps: a turn's block may have none
    promise(reservations, args[1], steps, bytes, time + args[3])
  end
  if blocked then
    redis.call('SET', waiting, blocked, 'PX', 500)
  end
  return verdicts
end}

-- Takes the newest entries of a log away again; only here do blocks pass through.
local function take_back(log, count)
  for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-', 'COUNT', count)) do
    redis.call('XDEL', log, entry[1])
  end
end

-- Counts entries that came to stay. A size may go on with the prompts that its block answers.
local function keep(state, sizes, entries)
  local steps, bytes = sum(entries)
  redis.call('RPUSH', sizes, unpack(entries))
  redis.call('HINCRBY', state, 'inserts', steps)
  redis.call('HINCRBY', state, 'retained_steps', steps)
  redis.call('HINCRBY', state, 'retained_bytes', bytes)
end

-- state reservations sizes log | token size...
-- Runs in one transaction behind the XADDs: what was promised is now there. Without the promise,
-- withdrawn or expired, the new entries are taken back before anyone can see them. Returns how
-- many entries stay.
redis.register_function{function_name = 'troupe_1_commit', flags = {'allow-oom'},
callback = function(keys, args)
  local state, reservations, sizes, log = unpack(keys)
  if release(reservations, table.remove(args, 1)) == 0 then
    take_back(log, #args)
    return 0
  end
  keep(state, sizes, args)
  return #args
end}

-- reservations | token
-- Returns 1 if the promise was still open: a commit that comes later is without effect.
redis.register_function{function_name = 'troupe_1_withdraw', flags = {'allow-oom'},
callback = function(keys, args)
  return release(keys[1], args[1])
end}

local function trim(state, log, sizes, first_kept)
  local gone = redis.call('XTRIM', log, 'MINID', '=', first_kept)
  if gone > 0 then
    local steps, bytes = sum(redis.call('LPOP', sizes, gone)) -- minus none is no integer: 0 - steps
    redis.call('HINCRBY', state, 'retained_steps', 0 - steps)
    redis.call('HINCRBY', state, 'retained_bytes', 0 - bytes)
  end
  return gone
end

-- state log sizes | attempt first_kept
redis.register_function{function_name = 'troupe_1_acknowledge', flags = {'allow-oom'},
callback = function(keys, args)
  if fenced(keys[1], args[1]) then return -1 end
  return trim(keys[1], keys[2], keys[3], args[2])
end}

-- state versions log sizes | attempt first_kept samples (policy version)...
-- What is left in the log waits for the learner; everything before it was sampled or is lost.
redis.register_function{function_name = 'troupe_1_restore', flags = {'allow-oom'},
callback = function(keys, args)
  local state, versions, log, sizes = unpack(keys)
  if fenced(state, args[1]) then return -1 end
  trim(state, log, sizes, args[2])
  redis.call('HSET', state, 'attempt', args[1], 'samples', args[3],
    'inserts', string.format('%d', args[3] + number(state, 'retained_steps')))
  redis.call('DEL', versions)
  for i = 4, #args, 2 do
    redis.call('HSET', versions, args[i], args[i + 1])
  end
  return 0
end}

-- state | attempt steps
redis.register_function{function_name = 'troupe_1_sampled', flags = {'allow-oom'},
callback = function(keys, args)
  if fenced(keys[1], args[1]) then return -1 end
  return redis.call('HINCRBY', keys[1], 'samples', args[2])
end}

-- state versions | attempt policy version
redis.register_function{function_name = 'troupe_1_published', flags = {'allow-oom'},
callback = function(keys, args)
  if fenced(keys[1], args[1]) then return -1 end
  return redis.call('HSET', keys[2], args[2], args[3])
end}

-- state | steps
redis.register_function{function_name = 'troupe_1_may_sample', flags = {'no-writes'},
callback = function(keys, args)
  local s = load(keys[1])
  return (s and may_sample(s, tonumber(args[1]))) and 1 or 0
end}

-- waiting | reason milliseconds
redis.register_function{function_name = 'troupe_1_waiting', flags = {'allow-oom'},
callback = function(keys, args)
  return redis.call('SET', keys[1], args[1], 'PX', args[2])
end}

-- hash | (field value)...
-- HSET that works over the memory limit: for small documents, limits and the word to stop.
redis.register_function{function_name = 'troupe_1_put', flags = {'allow-oom'},
callback = function(keys, args)
  return redis.call('HSET', keys[1], unpack(args))
end}
