-- One step of a budget that several processes share; `ledger.py` is its twin, and explains it.
-- KEYS: state, leases, demand. ARGV: as `wire.py` writes an `Ask`.

local LEASE, FAR = 1.0, 1.0
local FIELDS = {
  'generation', 'pause', 'last', 'places', 'short',
  'rate1', 'rate2', 'rate3', 'rate4', 'owner1', 'owner2', 'owner3', 'owner4',
  'burst1', 'burst2', 'burst3', 'burst4', 'arrival1', 'arrival2', 'arrival3', 'arrival4',
  'in_force1', 'in_force2', 'in_force3', 'in_force4', 'spent1', 'spent2', 'learnt1', 'learnt2',
  'note1', 'note2', 'note3', 'version1', 'version2', 'version3', 'noted1', 'noted2', 'noted3', 'name',
}
local TEXT = {generation = true, owner1 = true, owner2 = true, owner3 = true, owner4 = true,
              note1 = true, note2 = true, note3 = true, name = true}

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local process, horizon = ARGV[2], tonumber(ARGV[3])
local waiting, flying, held = tonumber(ARGV[4]), tonumber(ARGV[5]), {tonumber(ARGV[6]), tonumber(ARGV[7])}
local wish = tonumber(ARGV[27])

local function kept(x) return string.format('%.6f', x) end
local function rounded(x) return tonumber(kept(x)) end

local found = redis.call('HMGET', KEYS[1], unpack(FIELDS))
local s, read = {}, {}
for i, field in ipairs(FIELDS) do
  local value = found[i]
  if TEXT[field] then value = value or '' else value = tonumber(value or '0') end
  s[field], read[field] = value, value
end
local fresh = s.generation == ''

-- The processes whose lease has ended.
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. kept(now))) do
  local theirs = redis.call('HGET', KEYS[3], dead)
  if theirs then
    local places, short = string.match(theirs, '^[^ ]+ [^ ]+ ([^ ]+) ([^ ]+)')
    s.places, s.short = s.places - tonumber(places), s.short - tonumber(short)
    redis.call('HDEL', KEYS[3], dead)
  end
  redis.call('ZREM', KEYS[2], dead)
end
local mine = redis.call('HGET', KEYS[3], process)
local places, short = 0, 0
if mine then
  places, short = string.match(mine, '^[^ ]+ [^ ]+ ([^ ]+) ([^ ]+)')
  places, short = tonumber(places), tonumber(short)
end
local newcomer = redis.call('ZADD', KEYS[2], kept(now + LEASE), process) == 1
local live = redis.call('ZCARD', KEYS[2])

-- Rates: the lowest of the live processes.
for i = 1, 4 do
  local rate, owner = tonumber(ARGV[8 + i]), s['owner' .. i]
  if rate > 0 then
    local known = s['rate' .. i]
    if known == 0 or rate < known or owner == process or not redis.call('ZSCORE', KEYS[2], owner) then
      s['rate' .. i], s['owner' .. i] = rate, process
      s['burst' .. i] = i > 2 and 86400 or tonumber(ARGV[13])
    end
  elseif owner == process then
    s['rate' .. i], s['owner' .. i] = 0, ''
  end
end

-- Notes: the first of several processes that saw the same thing writes it.
for i, at in ipairs({19, 23, 25}) do
  local text = ARGV[i == 1 and 22 or at + 1]
  if text ~= '' and tonumber(ARGV[at]) == s['version' .. i] then
    s['version' .. i], s['note' .. i], s['noted' .. i] = s['version' .. i] + 1, text, rounded(now)
    if i == 1 then s.learnt1, s.learnt2 = tonumber(ARGV[20]), tonumber(ARGV[21]) end
  elseif i == 1 and tonumber(ARGV[at]) == s.version1 then
    s.learnt1, s.learnt2 = math.max(s.learnt1, tonumber(ARGV[20])), math.max(s.learnt2, tonumber(ARGV[21]))
  end
end

-- What each meter holds.
for i = 1, 4 do
  local rate, burst = s['rate' .. i], s['burst' .. i]
  local learnt = i <= 2 and s['learnt' .. i] or 0
  if learnt > 0 and (rate == 0 or learnt < rate) then rate = learnt end
  if burst == 0 then burst = tonumber(ARGV[13]) end
  local arrival, before = math.max(s['arrival' .. i], now), s['in_force' .. i]
  if fresh and ARGV[8] ~= '' and i <= 2 then arrival = now + burst + horizon end
  if before > 0 and rate > 0 and before ~= rate then
    arrival = now + math.min((arrival - now) * before / rate, math.max(burst, arrival - now))
  end
  local spent = tonumber(ARGV[i % 2 == 1 and 14 or 15])
  if i <= 2 then s['spent' .. i] = rounded(s['spent' .. i] + spent) end
  if rate > 0 then
    arrival = arrival + spent / rate
    if spent < 0 then arrival = math.max(arrival, s.last, now) end
    local level = i <= 2 and tonumber(ARGV[15 + i])
    if level then arrival = math.max(arrival, now + burst - level / rate) end
  else
    arrival = now
  end
  s['in_force' .. i], s['burst' .. i], s['arrival' .. i] = rate, burst, arrival
end
s.pause = math.max(s.pause, now + tonumber(ARGV[18]))
if fresh then s.generation = kept(now) .. ' ' .. process end

-- Slots.
local allowed = {}
for i = 1, 2 do
  local rate = s['in_force' .. i]
  if rate > 0 then
    local room = now + horizon + s['burst' .. i] - s['arrival' .. i]
    allowed[i] = math.max(horizon / live - held[i] / rate, room / live)
  end
end
local slots, used, again = {}, {0, 0}, 0
for at = 29, #ARGV do
  if newcomer and #slots == 1 then break end
  local tokens, slot, costs, fits = tonumber(ARGV[at]), math.max(now, s.pause), {}, true
  for i = 1, 4 do
    local rate = s['in_force' .. i]
    if rate > 0 then
      local cost = (i % 2 == 1 and 1 or tokens) / rate
      costs[i] = cost
      slot = math.max(slot, s['arrival' .. i] + math.min(cost, s['burst' .. i]) - s['burst' .. i])
      if i <= 2 and used[i] + cost > allowed[i] then fits = false end
    end
  end
  local first = #slots == 0 and held[1] == 0
  if slot > now + (first and math.max(horizon, FAR) or horizon) then
    again = slot - horizon - now
    break
  end
  if not fits and not first then break end
  for i = 1, 4 do
    if costs[i] then
      s['arrival' .. i] = math.max(s['arrival' .. i], slot) + costs[i]
      if i <= 2 then used[i] = used[i] + costs[i] end
    end
  end
  s.spent1, s.spent2 = rounded(s.spent1 + 1), rounded(s.spent2 + tokens)
  s.last = math.max(s.last, slot)
  slots[#slots + 1] = kept(slot - now)
end

-- Places in flight, once a process has found how many there are.
local room, granted, lacks = tonumber(s.note2) or 0, 0, 0
if room > 0 then
  local others = s.places - places
  granted = math.min(wish, room - others)
  if s.short - short > 0 then granted = math.min(granted, math.ceil(room / live)) end
  granted = math.max(granted, flying, 1)
  if granted < wish then lacks = 1 end
end
s.places, s.short = s.places - places + granted, s.short - short + lacks

local written = {}
if s.name == '' then s.name = ARGV[28] end
for _, field in ipairs(FIELDS) do
  local value = s[field]
  if value ~= read[field] then
    written[#written + 1] = field
    written[#written + 1] = TEXT[field] and value or kept(value)
  end
end
if #written > 0 then redis.call('HSET', KEYS[1], unpack(written)) end
redis.call('HSET', KEYS[3], process, waiting .. ' ' .. flying .. ' ' .. granted .. ' ' .. lacks)
local ttl = (s.rate3 > 0 or s.rate4 > 0) and 90000000 or 3600000
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ttl) end

local answer = {s.generation, tostring(live), kept(s.pause - now), kept(again)}
for i = 1, 4 do answer[#answer + 1] = kept(s['in_force' .. i]) end
for i = 1, 2 do answer[#answer + 1] = kept(s['spent' .. i]) end
for i = 1, 2 do answer[#answer + 1] = kept(s['arrival' .. i] - now) end
for i, at in ipairs({19, 23, 25}) do
  answer[#answer + 1] = kept(s['version' .. i])
  answer[#answer + 1] = tonumber(ARGV[at]) == s['version' .. i] and '' or s['note' .. i]
  answer[#answer + 1] = kept(math.max(0, now - s['noted' .. i]))
end
answer[#answer + 1] = tostring(granted)
for _, slot in ipairs(slots) do answer[#answer + 1] = slot end
return answer
