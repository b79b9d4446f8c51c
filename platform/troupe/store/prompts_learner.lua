-- The prompts of a run, the learner's part: loading them, going on from a checkpoint. Loaded behind
-- prompts.lua, into one library.

-- The tickets that blocks in a shard of the log answer, as a set, and how many.
local function tickets_in(sizes)
  local found, count = {}, 0
  for _, size in ipairs(redis.call('LRANGE', sizes, 0, -1)) do
    for i, word in ipairs(words(size)) do
      if i > 2 then
        found[word] = true
        count = count + 1
      end
    end
  end
  return found, count
end

-- prompts... texts staged | total timeout deliveries size fingerprint seed shuffle
-- The prompts are all there. Of several loaders the first one's stay. Returns the fingerprint of
-- those that are there.
redis.register_function{function_name = 'troupe_1_prompts_loaded', flags = {'allow-oom'},
callback = function(keys, args)
  local p, texts, staged = prompt_keys(keys, 1), keys[#NAMES + 1], keys[#NAMES + 2]
  if redis.call('HEXISTS', p.state, 'size') == 0 then
    redis.call('RENAME', staged, texts)
    redis.call('PERSIST', texts)
    redis.call('HSET', p.state, 'size', args[4], 'fingerprint', args[5], 'seed', args[6],
      'shuffle', args[7])
  else
    redis.call('DEL', staged)
  end
  redis.call('HSET', p.state, 'total', args[1], 'timeout', args[2], 'deliveries', args[3])
  return redis.call('HGET', p.state, 'fingerprint')
end}

-- Whether the store forgot something that the checkpoint contains, or blocks that it does not.
local function differs(p, document, open, in_log)
  if number(p.state, 'cursor') < document.cursor
    or number(p.state, 'done') - in_log > document.done then return true end
  for _, tickets in ipairs{redis.call('HKEYS', p.leases), redis.call('ZRANGE', p.returned, 0, -1)} do
    for _, ticket in ipairs(tickets) do
      if not open[ticket] then return true end
    end
  end
  return false
end

-- Makes the checkpoint true again: what is closed in it is closed; every other ticket is open, but
-- for those that are dead or whose blocks wait.
local function reopen(p, document, open, answered)
  local done = document.done
  for _, ticket in ipairs(redis.call('HKEYS', p.leases)) do
    if not open[ticket] then finish(p, ticket, lease_of(p, ticket)) end
  end
  redis.call('DEL', p.returned)
  for ticket in pairs(open) do
    if answered[ticket] then
      done = done + 1
    elseif redis.call('HEXISTS', p.leases, ticket) + redis.call('HEXISTS', p.dead, ticket) == 0 then
      redis.call('ZADD', p.returned, ticket, ticket)
    end
  end
  local cursor = math.max(document.cursor, number(p.state, 'cursor'))
  redis.call('HSET', p.state, 'done', string.format('%d', done),
    'cursor', string.format('%d', cursor))
end

-- The tickets that are not closed in a checkpoint, as a set.
local function open_in(document, cursor)
  local open = {}
  for _, ticket in ipairs(document.open) do open[string.format('%d', ticket)] = true end
  for ticket = document.cursor, cursor - 1 do open[string.format('%d', ticket)] = true end
  return open
end

-- An attempt with fewer shards than one before it waits for nothing in the others.
local function forget_shards(p, shards)
  for _, name in ipairs(redis.call('HKEYS', p.state)) do
    local shard = name:match('^%a+/(%d+)$')
    if shard and tonumber(shard) >= shards then redis.call('HDEL', p.state, name) end
  end
end

-- prompts... sizes... | attempt document
-- Begins an attempt from what a checkpoint says. Leases of earlier attempts are given back. Returns
-- whether tickets were opened again.
redis.register_function{function_name = 'troupe_1_prompts_begin', flags = {'allow-oom'},
callback = function(keys, args)
  local p, attempt, document = prompt_keys(keys, 1), tonumber(args[1]), cjson.decode(args[2])
  if fenced(p.state, attempt) then return -1 end
  if attempt > number(p.state, 'attempt') then
    for ticket in pairs(fields(p.leases)) do
      give_back(p, ticket, lease_of(p, ticket))
    end
    forget_shards(p, #keys - #NAMES)
    redis.call('HSET', p.state, 'attempt', attempt)
  end
  local answered, in_log = {}, 0
  for i = #NAMES + 1, #keys do
    local found, count = tickets_in(keys[i])
    for ticket in pairs(found) do answered[ticket] = true end
    in_log = in_log + count
  end
  for ticket, reason in pairs(document.dead) do redis.call('HSETNX', p.dead, ticket, reason) end
  for reason, count in pairs(document.dropped) do redis.call('HSETNX', p.dropped, reason, count) end
  local open = open_in(document, number(p.state, 'cursor'))
  if not differs(p, document, open, in_log) then return 0 end
  for ticket, note in pairs(document.deliveries) do redis.call('HSETNX', p.deliveries, ticket, note) end
  reopen(p, document, open, answered)
  return 1
end}

-- prompts... sizes trained | attempt shard groups max_staleness ticket...
-- A rank goes on from a checkpoint in which, of what its shard holds, these are trained on.
redis.register_function{function_name = 'troupe_1_prompts_restore', flags = {'allow-oom'},
callback = function(keys, args)
  local p, sizes, trained = prompt_keys(keys, 1), keys[#NAMES + 1], keys[#NAMES + 2]
  if fenced(p.state, args[1]) then return -1 end
  local answered, waiting = tickets_in(sizes)
  redis.call('DEL', trained)
  for i = 5, #args do
    if answered[args[i]] then
      waiting = waiting - redis.call('SADD', trained, args[i])
    end
  end
  redis.call('HSET', p.state, 'max_staleness', args[4], 'groups/' .. args[2], args[3],
    'waiting/' .. args[2], waiting)
  return waiting
end}

-- prompts... trained | attempt shard ticket...
-- These groups were trained on, or dropped as too old. Returns how many were not known to be.
redis.register_function{function_name = 'troupe_1_prompts_consumed', flags = {'allow-oom'},
callback = function(keys, args)
  local p, count = prompt_keys(keys, 1), 0
  if fenced(p.state, args[1]) then return -1 end
  for i = 3, #args do
    count = count + redis.call('SADD', keys[#NAMES + 1], args[i])
  end
  redis.call('HINCRBY', p.state, 'waiting/' .. args[2], 0 - count)
  return count
end}
