-- The prompts of a run: who answers which, once. Loaded behind functions.lua, into one library.
--
-- A ticket is a prompt's place in the endless sequence of all epochs. Which prompt that is follows
-- from the seed, so nothing has to be queued. A ticket is open from the cursor on, while it is
-- leased, and while it is returned; every other one is closed: answered, dropped or dead.
--
-- Keys of the prompts, always handed over in this order:
--   state       hash: cursor, counters, settings, attempt; per shard of the log: groups, leased, waiting
--   leases      hash: ticket -> "token shard since holder"
--   expiry      sorted set: ticket by when its lease ends, in milliseconds
--   returned    sorted set: tickets that are to be leased again, by ticket
--   deliveries  hash: ticket -> "count reason", of deliveries that came to nothing
--   dead        hash: ticket -> "count time reason"
--   dropped     hash: reason -> how many
--   grants      hash: holder -> "token ticket...", the newest, so that a call can be repeated
--   trials      hash: holder -> ticket that it has on its last delivery
--   answers     hash: holder -> token of its newest answer, so that it can be recognised
local NAMES = {'state', 'leases', 'expiry', 'returned', 'deliveries', 'dead', 'dropped', 'grants',
  'trials', 'answers'}

-- By name, from keys[first] on.
local function prompt_keys(keys, first)
  local p = {}
  for i, name in ipairs(NAMES) do
    p[name] = keys[first + i - 1]
  end
  return p
end

local function lease_of(p, ticket)
  local held = redis.call('HGET', p.leases, ticket)
  if not held then return nil end
  local token, shard, since, holder = held:match('^(%S+) (%d+) (%d+) (.*)$')
  return {token = token, shard = shard, since = tonumber(since), holder = holder}
end

local function held(p, ticket, token)
  local lease = lease_of(p, ticket)
  return lease and lease.token == token and lease
end

local function misses(p, ticket)
  local noted = redis.call('HGET', p.deliveries, ticket)
  return noted and tonumber(noted:match('^%d+')) or 0
end

local function grant(p, ticket, by, time)
  local lease = string.format('%s %d %d %s', by.token, by.shard, time, by.holder)
  redis.call('HSET', p.leases, ticket, lease)
  redis.call('ZADD', p.expiry, time + number(p.state, 'timeout'), ticket)
  redis.call('HINCRBY', p.state, 'leased/' .. by.shard, 1)
end

-- Ends a lease; what becomes of its ticket is for the caller to say.
local function finish(p, ticket, lease)
  redis.call('HDEL', p.leases, ticket)
  redis.call('ZREM', p.expiry, ticket)
  redis.call('HINCRBY', p.state, 'leased/' .. lease.shard, -1)
  if redis.call('HGET', p.trials, lease.holder) == ticket then
    redis.call('HDEL', p.trials, lease.holder)
  end
end

local function give_back(p, ticket, lease)
  finish(p, ticket, lease)
  redis.call('ZADD', p.returned, ticket, ticket)
end

local function bury(p, ticket, count, reason)
  redis.call('HDEL', p.deliveries, ticket)
  redis.call('HSET', p.dead, ticket, string.format('%d %d %s', count, now(), reason))
end

-- A delivery that came to nothing: the prompt is given back, or is dead after the last one.
local function miss(p, ticket, lease, reason)
  local count = misses(p, ticket) + 1
  if count < number(p.state, 'deliveries') then
    give_back(p, ticket, lease)
    redis.call('HSET', p.deliveries, ticket, count .. ' ' .. reason)
  else
    finish(p, ticket, lease)
    bury(p, ticket, count, reason)
  end
end

local function reap(p, time)
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', p.expiry, '-inf', time)) do
    local lease = lease_of(p, ticket)
    local seconds = math.floor((time - lease.since) / 1000 + 0.5)
    miss(p, ticket, lease, string.format('%s had it for %d s and fell silent', lease.holder, seconds))
  end
end

-- A prompt on its last delivery goes to a holder that has no other such: what dies with a holder
-- each time must not take along those that only happened to be there.
local function on_trial(p, ticket)
  local count = misses(p, ticket)
  return count > 0 and count + 1 >= number(p.state, 'deliveries')
end

local function take_returned(p, by, count, time, granted)
  for _, ticket in ipairs(redis.call('ZRANGE', p.returned, 0, 4 * count + 64)) do
    if #granted == count then return end
    local trial = on_trial(p, ticket)
    if not trial or redis.call('HSETNX', p.trials, by.holder, ticket) == 1 then
      redis.call('ZREM', p.returned, ticket)
      grant(p, ticket, by, time)
      granted[#granted + 1] = ticket
    end
  end
end

local function take_new(p, by, count, time, granted)
  local cursor, total = number(p.state, 'cursor'), number(p.state, 'total')
  local last = cursor + count - #granted
  if total > 0 then last = math.min(last, total) end
  for ticket = cursor, last - 1 do
    local name = string.format('%d', ticket)
    grant(p, name, by, time)
    granted[#granted + 1] = name
  end
  redis.call('HSET', p.state, 'cursor', string.format('%d', math.max(cursor, last)))
end

-- Whether a holder may not take prompts: its attempt is over, or the learner has yet to begin.
local function closed(p, attempt, shard)
  local current = number(p.state, 'attempt')
  if attempt < current then return 'fenced' end
  local ready = redis.call('HEXISTS', p.state, 'size') == 1
    and redis.call('HEXISTS', p.state, 'groups/' .. shard) == 1
  return (attempt > current or not ready) and 'loading'
end

local function words(text)
  local found = {}
  for word in text:gmatch('%S+') do found[#found + 1] = word end
  return found
end

-- How many groups may be under way when they are begun with weights of that age, and how many are;
-- without groups there is no limit.
local function limits(p, shard, age)
  local groups = number(p.state, 'groups/' .. shard)
  local busy = number(p.state, 'leased/' .. shard) + number(p.state, 'waiting/' .. shard)
  if groups == 0 then return math.huge, busy end
  return (number(p.state, 'max_staleness') + 1 - age) * groups, busy
end

-- Why nothing was granted although there was room.
local function nothing_left(p)
  local leased = redis.call('HLEN', p.leases)
  local rest = leased + redis.call('ZCARD', p.returned)
  return {rest > 0 and 'empty' or 'over', leased, 0, 0}
end

-- prompts... versions | attempt token holder shard count policy version
-- Leases up to count prompts. Returns ok and their tickets; or why there are none, and in numbers:
-- groups under way, how many may be, how many versions old the holder's weights are.
redis.register_function{function_name = 'troupe_1_lease', flags = {'allow-oom'},
callback = function(keys, args)
  local p, versions = prompt_keys(keys, 1), keys[#NAMES + 1]
  local by = {token = args[2], holder = args[3], shard = tonumber(args[4])}
  local refused = closed(p, tonumber(args[1]), by.shard)
  if refused then return {refused, 0, 0, 0} end
  local newest = words(redis.call('HGET', p.grants, by.holder) or '')
  if newest[1] == by.token then
    newest[1] = 'ok'
    return newest
  end
  local time = now()
  reap(p, time)
  local published = tonumber(redis.call('HGET', versions, args[6]) or args[7])
  local age = math.max(0, published - args[7])
  local limit, busy = limits(p, by.shard, age)
  if busy >= limit then
    local full = busy >= limits(p, by.shard, 0)
    return {full and 'full' or 'old', busy, math.max(limit, 0), age}
  end
  local count, granted = math.min(tonumber(args[5]), limit - busy), {}
  take_returned(p, by, count, time, granted)
  take_new(p, by, count, time, granted)
  if #granted == 0 then return nothing_left(p) end
  redis.call('HSET', p.grants, by.holder, by.token .. ' ' .. table.concat(granted, ' '))
  table.insert(granted, 1, 'ok')
  return granted
end}

-- prompts... | attempt token holder shard ticket...
-- Leases exactly these, to the one holder that they belong to, whoever had them before. Returns ok
-- and, for each that there is, 1 if it is leased now and 0 if it is closed.
redis.register_function{function_name = 'troupe_1_lease_these', flags = {'allow-oom'},
callback = function(keys, args)
  local p, time = prompt_keys(keys, 1), now()
  local by = {token = args[2], holder = args[3], shard = tonumber(args[4])}
  local refused = closed(p, tonumber(args[1]), by.shard)
  if refused then return {refused} end
  local verdicts, total = {'ok'}, number(p.state, 'total')
  for i = 5, #args do
    local ticket, lease = args[i], lease_of(p, args[i])
    if total > 0 and tonumber(ticket) >= total then break end
    local cursor, open = number(p.state, 'cursor'), true
    if lease then
      finish(p, ticket, lease)
    elseif tonumber(ticket) >= cursor then
      for skipped = cursor, ticket - 1 do
        redis.call('ZADD', p.returned, skipped, string.format('%d', skipped))
      end
      redis.call('HSET', p.state, 'cursor', string.format('%d', ticket + 1))
    else
      open = redis.call('ZREM', p.returned, ticket) == 1
    end
    if open then grant(p, ticket, by, time) end
    verdicts[#verdicts + 1] = open and 1 or 0
  end
  return verdicts
end}

-- prompts... | (ticket token)...
-- Returns, for each, 1 if it is still held, and then for the whole visibility timeout again.
redis.register_function{function_name = 'troupe_1_heartbeat', flags = {'allow-oom'},
callback = function(keys, args)
  local p, verdicts = prompt_keys(keys, 1), {}
  local until_ = now() + number(p.state, 'timeout')
  for i = 1, #args, 2 do
    local alive = held(p, args[i], args[i + 1])
    if alive then redis.call('ZADD', p.expiry, until_, args[i]) end
    verdicts[#verdicts + 1] = alive and 1 or 0
  end
  return verdicts
end}

-- prompts... | how reason (ticket token)...
-- Ends leases without an answer. How: release, miss, bury or drop. Returns how many were held.
redis.register_function{function_name = 'troupe_1_end_lease', flags = {'allow-oom'},
callback = function(keys, args)
  local p, how, reason, count = prompt_keys(keys, 1), args[1], args[2], 0
  for i = 3, #args, 2 do
    local ticket = args[i]
    local lease = held(p, ticket, args[i + 1])
    if lease then
      count = count + 1
      if how == 'release' then
        give_back(p, ticket, lease)
      elseif how == 'miss' then
        miss(p, ticket, lease, reason)
      else
        finish(p, ticket, lease)
        if how == 'bury' then
          bury(p, ticket, misses(p, ticket) + 1, reason)
        else
          redis.call('HDEL', p.deliveries, ticket)
          redis.call('HINCRBY', p.dropped, reason, 1)
        end
      end
    end
  end
  return count
end}

-- prompts... | holder reason
-- A holder begins a new life: what it had before came to nothing. Returns how many those were.
redis.register_function{function_name = 'troupe_1_begin_holder', flags = {'allow-oom'},
callback = function(keys, args)
  local p, count = prompt_keys(keys, 1), 0
  for ticket in pairs(fields(p.leases)) do
    local lease = lease_of(p, ticket)
    if lease.holder == args[1] then
      miss(p, ticket, lease, args[2])
      count = count + 1
    end
  end
  return count
end}

-- state reservations sizes log prompts... | token holder shard size (ticket token)...
-- Runs in one transaction behind the XADD of one block: it stays if its room was promised and all
-- its prompts are still held, which are answered by it. Returns ok; lost if another has a prompt; or
-- again without the promise.
redis.register_function{function_name = 'troupe_1_answer', flags = {'allow-oom'},
callback = function(keys, args)
  local state, reservations, sizes, log = unpack(keys)
  local p, token, holder, shard = prompt_keys(keys, 5), args[1], args[2], args[3]
  local promised, leases, entry = release(reservations, token) == 1, {}, {args[4]}
  for i = 5, #args, 2 do
    local lease = held(p, args[i], args[i + 1])
    if not lease then
      take_back(log, 1)
      return 'lost'
    end
    leases[args[i]] = lease
    entry[#entry + 1] = args[i]
  end
  if not promised then
    take_back(log, 1)
    return 'again'
  end
  for ticket, lease in pairs(leases) do
    finish(p, ticket, lease)
    redis.call('HDEL', p.deliveries, ticket)
  end
  keep(state, sizes, {table.concat(entry, ' ')})
  redis.call('HINCRBY', p.state, 'done', #entry - 1)
  redis.call('HINCRBY', p.state, 'waiting/' .. shard, #entry - 1)
  redis.call('HSET', p.answers, holder, token)
  return 'ok'
end}

-- reservations prompts... | token holder
-- Returns 1 if that answer was given; if not, it has no effect when it comes later.
redis.register_function{function_name = 'troupe_1_answered', flags = {'allow-oom'},
callback = function(keys, args)
  local p = prompt_keys(keys, 2)
  release(keys[1], args[1])
  return redis.call('HGET', p.answers, args[2]) == args[1] and 1 or 0
end}
